#include "server/cli/signals.h"

#include <sys/eventfd.h>

#include <cstdio>
#include <cstdlib>

#include "engine/check.h"
#include "server/cli/call.h"

namespace goldfinch {
namespace {

bool IsIgnored(int number) {
  struct sigaction action = {};
  return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

Signals::Signals() : came_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  GOLDFINCH_CHECK(came_fd_);
  sigemptyset(&signals_);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals_, number);
  // As nohup wants it.
  if (!IsIgnored(SIGHUP)) sigaddset(&signals_, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals_, &before_);
  thread_ = std::thread([this] {
    for (int number = 0; sigwait(&signals_, &number) == 0 && !stopping_;) {
      if (number != SIGUSR1) OnSignal(number);
    }
  });
}

Signals::~Signals() {
  stopping_ = true;
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void Signals::OnSignal(int number) {
  const MutexLock lock(mu_);
  if (number != SIGINT) terminated_ = true;
  // Once is asking; a second time is the user's last word.
  if (interrupted_) std::_Exit(kInterruptedExit);
  interrupted_ = true;
  eventfd_write(came_fd_.get(), 1);
  if (call_ != nullptr) call_->TryCancel();
  came_.NotifyAll();
}

void Signals::Forget() {
  const MutexLock lock(mu_);
  interrupted_ = false;
  eventfd_t count = 0;
  eventfd_read(came_fd_.get(), &count);
}

bool Signals::interrupted() const {
  const MutexLock lock(mu_);
  return interrupted_;
}

bool Signals::Sleep(std::chrono::nanoseconds duration) const {
  const auto end = std::chrono::steady_clock::now() + duration;
  const MutexLock lock(mu_);
  while (!interrupted_ && std::chrono::steady_clock::now() < end) {
    came_.WaitUntil(mu_, end);
  }
  return !interrupted_;
}

int Signals::Report(const grpc::Status& status) const {
  if (!interrupted() || status.error_code() != grpc::StatusCode::CANCELLED) {
    return goldfinch::Report(status);
  }
  std::fflush(stdout);
  std::fputs("goldfinch: interrupted\n", stderr);
  return kInterruptedExit;
}

Signals::Call::Call(Signals& signals, grpc::ClientContext& context) : signals_(signals) {
  const MutexLock lock(signals_.mu_);
  signals_.call_ = &context;
  if (signals_.interrupted_) context.TryCancel();
}

Signals::Call::~Call() {
  const MutexLock lock(signals_.mu_);
  signals_.call_ = nullptr;
}

}  // namespace goldfinch
