// What is counted for one tenant. The server reads it for metrics; the scheduler adds to
// it, without knowing who else looks.
//
// Threads: any; every field by itself.
#pragma once

#include <atomic>
#include <cstdint>

namespace goldfinch {

struct TenantMeter {
  // Now.
  std::atomic<std::int64_t> running_requests = 0;
  std::atomic<std::int64_t> waiting_requests = 0;  // those put aside included
  // Since the start.
  std::atomic<std::int64_t> prompt_tokens = 0;  // that went through the model
  std::atomic<std::int64_t> generated_tokens = 0;
  std::atomic<std::int64_t> service = 0;  // fair_share.h: weighted tokens, not by weight
  std::atomic<std::int64_t> put_aside = 0;
  std::atomic<std::int64_t> refused = 0;  // calls that would have taken memory
};

}  // namespace goldfinch
