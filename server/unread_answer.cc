#include "server/unread_answer.h"

#include <cstdint>

namespace goldfinch {
namespace {

// What a call takes besides is of this order, and bounded with its connection.
constexpr std::int64_t kLargeAnswerBytes = std::int64_t{64} << 10;

}  // namespace

UnreadAnswer::UnreadAnswer(grpc::CallbackServerContext& context)
    : call_(context.c_call()) {
  grpc_call_ref(call_);
}

UnreadAnswer::~UnreadAnswer() { grpc_call_unref(call_); }

absl::Status UnreadAnswer::Begin(const google::protobuf::MessageLite& message,
                                 TransferRoom& room, const std::string& tenant,
                                 TimePoint now) {
  const auto size = static_cast<std::int64_t>(message.ByteSizeLong());
  if (size > kLargeAnswerBytes) {
    share_.emplace(room, tenant);
    absl::Status status = share_->Take(2 * size);  // as a message and as bytes
    if (!status.ok()) return status;
  }
  const MutexLock lock(mu_);
  since_ = now;
  return absl::OkStatus();
}

void UnreadAnswer::CutOffIfStuck(TimePoint since) {
  {
    const MutexLock lock(mu_);
    if (!since_.has_value() || *since_ >= since) return;
    since_.reset();
  }
  // Without the lock: the library may end other calls on the way, and this one.
  grpc_call_cancel(call_, nullptr);
}

}  // namespace goldfinch
