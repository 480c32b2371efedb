// Generate calls that are under way at once, and their common end.
//
// Threads: any. Callbacks come on gRPC's threads, those of one call one after another.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <unordered_set>

#include "absl/base/thread_annotations.h"
#include "engine/sync/mutex.h"
#include "goldfinch/v1/generation_service.grpc.pb.h"

namespace goldfinch {

// Before the next call in the place of one that failed: a server that refuses everything
// at once is not asked in a loop.
inline constexpr auto kPauseAfterFailure = std::chrono::milliseconds(100);

struct CallEvents {
  // A message with so many tokens came, at least one.
  std::function<void(std::int64_t tokens)> on_tokens;
  // Nothing comes after it. It may start another call.
  std::function<void(const grpc::Status& status)> on_end;
};

class CallGroup {
 public:
  CallGroup() = default;
  ~CallGroup();  // CancelAll and AwaitEnd
  CallGroup(const CallGroup&) = delete;
  CallGroup& operator=(const CallGroup&) = delete;

  // `stub` outlives the call. False after CancelAll: nothing is started or called then.
  bool Start(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request,
             CallEvents events);
  // What runs ends with CANCELLED, and nothing more is started.
  void CancelAll();
  bool cancelled();
  // Returns when no call is under way.
  void AwaitEnd();

 private:
  class Call;

  bool Add(Call* call);
  void Remove(Call* call);

  Mutex mu_;
  CondVar changed_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  std::unordered_set<Call*> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
