// What the subcommands share: a channel, a call that ends with the user's patience, and
// one way to say what went wrong.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "server/cli/commands.h"

namespace goldfinch {

inline constexpr int kInterruptedExit = 130;  // as shells report SIGINT

std::shared_ptr<grpc::Channel> Connect(const ConnectionFlags& flags);

void SetDeadline(const ConnectionFlags& flags, grpc::ClientContext& context);

// Prints "goldfinch: CODE: message" on stderr unless the status is OK; returns the exit
// code.
int Report(const grpc::Status& status);

// All of standard input.
std::string ReadStandardInput();

// Cancels a call on SIGINT or SIGTERM while it exists. Made before the channel, whose
// threads must not take the signals, and by one thread.
class CancelOnSignal {
 public:
  explicit CancelOnSignal(grpc::ClientContext& context);
  ~CancelOnSignal();
  CancelOnSignal(const CancelOnSignal&) = delete;
  CancelOnSignal& operator=(const CancelOnSignal&) = delete;

  // As Report; a call that was cancelled by a signal is interrupted, not an error.
  int Report(const grpc::Status& status) const;

 private:
  sigset_t signals_;
  sigset_t before_;
  std::atomic<bool> interrupted_ = false;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace goldfinch
