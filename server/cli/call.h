// What the subcommands share: a channel to a server, a call that ends with the user's
// patience, and one way to say what went wrong.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/cli/commands.h"

namespace goldfinch {

class Signals;

using Deadline = std::optional<std::chrono::system_clock::time_point>;
Deadline DeadlineOf(const ConnectionFlags& flags);
void SetDeadline(const Deadline& deadline, grpc::ClientContext& context);
void SetDeadline(const ConnectionFlags& flags, grpc::ClientContext& context);

// The connection to one of the servers of --server, which stand in for one another.
// Threads: one.
class Connection {
 public:
  // A signal, if they are given, ends the wait for a connection.
  explicit Connection(const ConnectionFlags& flags, const Signals* signals = nullptr);

  // A channel that is connected: to the server in use, or else to the first that
  // connects, beginning there. When none does, one whose calls say why; but they may
  // reach a server after all, that comes late.
  std::shared_ptr<grpc::Channel> Channel(const Deadline& deadline);
  // Whether the last Channel() was connected.
  bool reached() const { return reached_; }
  // Why it was not. Asks for it nothing that a server would act on.
  grpc::Status WhyNotReached(const Deadline& deadline) const;
  // The server in use refused: the next Channel() begins with the one after it.
  void Leave();
  std::size_t num_servers() const { return addresses_.size(); }

 private:
  bool Connects(const Deadline& deadline) const;
  Deadline PatienceWith(std::size_t num_left, const Deadline& deadline) const;

  const ConnectionFlags flags_;
  const Signals* const signals_;
  const std::vector<std::string> addresses_;
  std::size_t current_ = 0;
  std::shared_ptr<grpc::Channel> channel_;  // shared with calls, as the library wants
  bool reached_ = false;
};

// For a single call. A lone server is connected to by the call itself.
std::shared_ptr<grpc::Channel> Connect(const ConnectionFlags& flags);

// Prints "goldfinch: CODE: message" on stderr unless the status is OK; returns the exit
// code.
int Report(const grpc::Status& status);

// What keeps a text out of a message, in one line, or nothing: the library has no word
// for it.
std::string TextMistake(const std::string& text);

}  // namespace goldfinch
