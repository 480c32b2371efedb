#include "server/cli/signals.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "server/cli/call.h"

namespace goldfinch {

Signals::Signals() {
  sigemptyset(&signals_);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals_, number);
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
  if (number == SIGTERM) terminated_ = true;
  if (quit_ && isatty(STDERR_FILENO)) std::fputs("\n", stderr);
  // Once is asking; a second time is the user's last word.
  if (quit_ || interrupted_) std::_Exit(kInterruptedExit);
  interrupted_ = true;
  if (call_ != nullptr) call_->TryCancel();
  came_.NotifyAll();
}

void Signals::CancelFromNowOn() {
  const MutexLock lock(mu_);
  quit_ = interrupted_ = false;
}

void Signals::QuitFromNowOn() {
  const MutexLock lock(mu_);
  quit_ = true;
  interrupted_ = false;
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
