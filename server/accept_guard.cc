#include "server/accept_guard.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/sync/mutex.h"

namespace goldfinch {
namespace {

class SpareDescriptor {
 public:
  void Take() {
    const MutexLock lock(mu_);
    Open();
  }

  // Takes the next connection of `listener` and closes it; false when there was none, or
  // no descriptor for it.
  bool RefuseOne(int listener) {
    const MutexLock lock(mu_);
    Open();  // where the last time there was none any more
    if (fd_ < 0) return false;
    close(fd_);
    const long connection =
        syscall(SYS_accept4, listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection >= 0) close(static_cast<int>(connection));
    fd_ = -1;
    Open();
    return connection >= 0;
  }

 private:
  void Open() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (fd_ < 0) fd_ = open("/dev/null", O_RDONLY | O_CLOEXEC);
  }

  Mutex mu_;
  int fd_ ABSL_GUARDED_BY(mu_) = -1;
};

SpareDescriptor& Spare() {
  static auto* const spare = new SpareDescriptor();  // used until the process has ended
  return *spare;
}

// Whether no connection may have this descriptor: of the last ones, for what the process
// opens by itself; a quarter of them, where it may have very few.
bool IsReserved(long descriptor) {
  constexpr rlim_t kReserved = 64;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  const rlim_t reserved = std::min(kReserved, limit.rlim_cur / 4);
  return static_cast<rlim_t>(descriptor) >= limit.rlim_cur - reserved;
}

}  // namespace

void GuardAccept() { Spare().Take(); }

}  // namespace goldfinch

// In the place of the C library's.
extern "C" int accept4(int listener, sockaddr* address, socklen_t* size, int flags) {
  const long connection = syscall(SYS_accept4, listener, address, size, flags);
  if (connection >= 0 && goldfinch::IsReserved(connection)) {
    close(static_cast<int>(connection));
    errno = EINTR;  // the next one is looked at, too
    return -1;
  }
  if (connection >= 0 || (errno != EMFILE && errno != ENFILE)) {
    return static_cast<int>(connection);
  }
  // "Nobody is there": asked again when the next one comes.
  errno = goldfinch::Spare().RefuseOne(listener) ? EINTR : EAGAIN;
  return -1;
}
