// A channel as the command line wants it: plain or TLS, with the user's key on each of
// its calls.
//
// Threads: any.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/cli/commands.h"

namespace goldfinch {

// What is wrong with the flags, in one line: files that cannot be read, a key that no
// header can carry, or one that everybody on the way to a server of --server could read.
absl::Status CheckConnection(const ConnectionFlags& flags);

// For flags that were checked. A channel of its own, which connects at once.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          const ConnectionFlags& flags);

// The addresses of --server.
std::vector<std::string> AddressesOf(const ConnectionFlags& flags);

}  // namespace goldfinch
