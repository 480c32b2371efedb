// What SIGINT, SIGTERM and SIGHUP do to a client.
//
// The first one cancels the call that is under way, ends a wait and is remembered, so
// that the program can end in order; the second one ends it. The exit code is then 130.
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
#include "engine/file_descriptor.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

inline constexpr int kInterruptedExit = 130;  // as shells report SIGINT

class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // What came so far is forgotten, but for terminated().
  void Forget();

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
  // Can be read once a signal came, for poll().
  int came_fd() const { return came_fd_.get(); }
  // SIGTERM or SIGHUP came: the program is to end, not only the call.
  bool terminated() const { return terminated_; }
  // False, and at once, when a signal came.
  bool Sleep(std::chrono::nanoseconds duration) const;
  // As Report of call.h; a call that was cancelled by a signal is interrupted, not an
  // error.
  int Report(const grpc::Status& status) const;

 private:
  void OnSignal(int number);

  const FileDescriptor came_fd_;
  sigset_t signals_;
  sigset_t before_;
  std::atomic<bool> terminated_ = false;
  std::atomic<bool> stopping_ = false;

  mutable Mutex mu_;
  mutable CondVar came_;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool interrupted_ ABSL_GUARDED_BY(mu_) = false;

  std::thread thread_;  // waits for signals
};

}  // namespace goldfinch
