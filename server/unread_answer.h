// The answer of a unary call, from Finish until its client has taken it.
//
// A client may open a call with a window of nothing and never read: the call then lasts
// as long as its connection, and with it the message, and the same again as bytes. So
// large answers share the room of snapshots on their way, of which no tenant can keep the
// others out, and a sweep breaks off a call whose answer has waited for too long.
//
// Threads: any; Begin by one, once.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpc/grpc.h>
#include <grpcpp/server_context.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/sync/mutex.h"
#include "scheduler/clock.h"
#include "server/transfer_room.h"

namespace goldfinch {

class UnreadAnswer {
 public:
  explicit UnreadAnswer(grpc::CallbackServerContext& context);
  ~UnreadAnswer();
  UnreadAnswer(const UnreadAnswer&) = delete;
  UnreadAnswer& operator=(const UnreadAnswer&) = delete;

  // Before a Finish that sends `message`: it counts as waiting from `now` on.
  // RESOURCE_EXHAUSTED when there is no room for it, and it must not be sent.
  absl::Status Begin(const google::protobuf::MessageLite& message, TransferRoom& room,
                     const std::string& tenant, TimePoint now);

  // Cancels the call if its answer has been waiting since before `since`. May come at any
  // time, also when the call is done and its context is gone.
  void CutOffIfStuck(TimePoint since);

 private:
  grpc_call* const call_;  // shared with the library
  std::optional<TransferShare> share_;
  Mutex mu_;
  std::optional<TimePoint> since_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
