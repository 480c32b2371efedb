#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>
#include <thread>

#include "server/cli/call.h"
#include "server/cli/commands.h"

namespace goldfinch {
namespace {

constexpr auto kBetweenChecks = std::chrono::milliseconds(100);
constexpr std::int32_t kServing = 1;  // grpc.health.v1.HealthCheckResponse.SERVING

// No package ships the health proto. Its messages have one field each, numbered 1, so a
// wrapper of a string and of an integer have the same bytes.
using HealthStub = grpc::TemplatedGenericStub<google::protobuf::StringValue,
                                              google::protobuf::Int32Value>;

grpc::Status Check(const std::shared_ptr<grpc::Channel>& channel,
                   std::chrono::system_clock::time_point deadline, bool& serving) {
  grpc::ClientContext context;
  context.set_deadline(deadline);
  const google::protobuf::StringValue whole_server;
  google::protobuf::Int32Value answer;
  std::promise<grpc::Status> done;
  HealthStub stub(channel);
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(),
                 &whole_server, &answer,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  serving = status.ok() && answer.value() == kServing;
  return status;
}

}  // namespace

// Asks until the server says SERVING or the wait is over; at least once.
int RunHealth(const HealthFlags& flags) {
  using SystemClock = std::chrono::system_clock;
  // Even without a wait, a connection takes a moment: this, or --timeout.
  constexpr double kConnectSeconds = 1;
  const bool waits = flags.wait > 0;
  const double timeout = flags.connection.timeout;
  const double seconds =
      !waits && timeout > 0 ? timeout : std::max(flags.wait, kConnectSeconds);
  const SystemClock::time_point end = *DeadlineOf({.timeout = seconds});
  bool serving = false;
  grpc::Status status(grpc::StatusCode::UNAVAILABLE, "the server does not answer");
  for (;;) {
    // A new channel each time: one that has failed waits longer and longer.
    const grpc::Status answer =
        Check(Connect(flags.connection),
              std::min(end, DeadlineOf(flags.connection).value_or(end)), serving);
    // That the time is over is no reason, where an earlier check had one.
    if (answer.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) status = answer;
    if (serving || !waits || SystemClock::now() + kBetweenChecks >= end) break;
    std::this_thread::sleep_for(kBetweenChecks);
  }
  if (!status.ok()) return Report(status);
  std::puts(serving ? "SERVING" : "NOT_SERVING");
  return serving ? 0 : 1;
}

}  // namespace goldfinch
