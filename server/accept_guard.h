// Keeps the port open when the process has no file descriptor left.
//
// gRPC 1.51 gives up a listening socket for good when accept4 fails with anything but
// "nobody is there" or "interrupted", and EMFILE is such an error: a server whose clients
// once took all its descriptors would never be reached again. So this program has an
// accept4 of its own, which the library then calls. It is the system's, but where no
// descriptor is left, one that was set aside is given up for a moment: the connection is
// taken with it and closed, so that its client may go elsewhere, and the caller is told
// that it was interrupted.
//
// Nor do connections get that far: the last 64 descriptors are none of theirs. Who needs
// no key to connect could else take those that the store and the log need, and a server
// that cannot renew its lease interrupts every session. The system gives the lowest
// descriptor that is free, so a connection with a high one says that those below are
// taken; it is closed.
//
// Threads: any.
#pragma once

namespace goldfinch {

// Sets the descriptor aside; once, before anything listens.
void GuardAccept();

}  // namespace goldfinch
