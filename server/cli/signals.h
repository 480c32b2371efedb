// What SIGINT and SIGTERM do to a client.
//
// While a call is under way the first one cancels it and is remembered, and the second
// one ends the program; at a prompt the first one ends it. The exit code is then 130.
//
// Made before the first channel, whose threads must not take the signals, and by one
// thread; that thread alone calls the methods.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

inline constexpr int kInterruptedExit = 130;  // as shells report SIGINT

class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // What the first signal does, from now on; what came before is forgotten. At first
  // they cancel.
  void CancelFromNowOn();
  void QuitFromNowOn();

  // The call of `context` is under way while this exists.
  class Call {
   public:
    Call(Signals& signals, grpc::ClientContext& context);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    Signals& signals_;
  };

  bool interrupted() const;
  // SIGTERM came: the program is to end, not only the call.
  bool terminated() const { return terminated_; }
  // False, and at once, when a signal came.
  bool Sleep(std::chrono::nanoseconds duration) const;
  // As Report of call.h; a call that was cancelled by a signal is interrupted, not an
  // error.
  int Report(const grpc::Status& status) const;

 private:
  void OnSignal(int number);

  sigset_t signals_;
  sigset_t before_;
  std::atomic<bool> terminated_ = false;
  std::atomic<bool> stopping_ = false;

  mutable Mutex mu_;
  mutable CondVar came_;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool quit_ ABSL_GUARDED_BY(mu_) = false;
  bool interrupted_ ABSL_GUARDED_BY(mu_) = false;

  std::thread thread_;  // waits for signals
};

}  // namespace goldfinch
