// When a call that failed is worth another try, and when to try.
//
// Threads: one.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <random>

#include "goldfinch/v1/generation_service.pb.h"
#include "server/cli/call.h"
#include "server/cli/signals.h"

namespace goldfinch {

// What the details of an UNAVAILABLE or RESOURCE_EXHAUSTED status say; nothing of any
// other one.
struct Advice {
  // Only a server says this: the call was refused, or broken off by it.
  std::optional<std::chrono::nanoseconds> retry_after;
  // What was generated is kept and can be resumed. With UNAVAILABLE only.
  std::optional<v1::Interruption> interruption;
};

Advice AdviceOf(const grpc::Status& status);

// A call was not taken up by any server, for lack of one or of room, so that it can be
// made again as it is. Not when only the caller can make room.
bool WasRefused(const grpc::Status& status, const Connection& connection);

inline constexpr std::chrono::seconds kEachServerOnce{0};
// A server that drains gives up its sessions within its --drain_seconds (30), and one
// that died within its --session_lease_seconds (30).
inline constexpr std::chrono::seconds kThroughARestart{60};

struct CallLimits {
  Deadline deadline;  // of all tries together
  // For so long they are made, when it is not taken up.
  std::chrono::seconds patience = kEachServerOnce;
};
// As --timeout and --retry_seconds have it.
CallLimits LimitsOf(const ConnectionFlags& flags);

// Waits between tries: not at all for a server that was not asked yet, then as long as
// servers wish and with growing pauses, until the limit is over. When all of them wish
// for longer than that, it does not wait in vain.
class Patience {
 public:
  Patience(Connection& connection, const Signals& signals, const Deadline& deadline,
           std::chrono::seconds limit);

  void set_limit(std::chrono::seconds limit) { limit_ = limit; }

  // Moves on to the next server, when it is time for that; false: no more tries.
  bool WaitForNextTry(const Advice& advice);
  // Something came: patience starts anew.
  void Restore();

 private:
  using Clock = std::chrono::steady_clock;

  Connection& connection_;
  const Signals& signals_;
  const Deadline deadline_;
  std::chrono::seconds limit_;
  std::optional<Clock::time_point> first_failure_;
  std::size_t num_failed_ = 0;
  // The shortest wait that a server wished for since all were asked.
  std::optional<std::chrono::nanoseconds> soonest_;
  std::chrono::nanoseconds pause_;
  std::minstd_rand random_;
};

// Where no server is reached, the call is not made: it could be executed later, when it
// is taken for one that was not.
template <typename Call>
grpc::Status CallOnce(Connection& connection, Signals& signals, const Deadline& deadline,
                      const Call& call) {
  const auto channel = connection.Channel(deadline);
  if (!connection.reached()) return connection.WhyNotReached(deadline);
  grpc::ClientContext context;
  SetDeadline(deadline, context);
  const Signals::Call scope(signals, context);
  return call(channel, context);
}

// Makes a call that has one answer, until it is answered or refused for good.
// `call(channel, context)` makes it once and gives its status.
template <typename Call>
grpc::Status CallPatiently(Connection& connection, Signals& signals,
                           const CallLimits& limits, const Call& call) {
  Patience patience(connection, signals, limits.deadline, limits.patience);
  for (;;) {
    const grpc::Status status = CallOnce(connection, signals, limits.deadline, call);
    if (!WasRefused(status, connection)) return status;
    if (!patience.WaitForNextTry(AdviceOf(status))) {
      return signals.interrupted() ? grpc::Status::CANCELLED : status;
    }
  }
}

}  // namespace goldfinch
