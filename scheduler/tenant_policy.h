// What one tenant may take of the scheduler, and the weight of its share.
//
// A tenant is whoever Request::tenant names; the server finds out who that is. Every
// limit is finite by default, so that a tenant nobody thought about is bounded too.
//
// Threads: a value; shared ones are immutable.
#pragma once

#include <cstdint>

#include "scheduler/request_limits.h"

namespace goldfinch {

struct TenantPolicy {
  // Of the service while several tenants have work waiting; twice the weight, twice the
  // tokens. In [0.001, 1000].
  double weight = 1.0;
  // Requests that run at once; more of them wait, and nobody waits behind them.
  std::int64_t max_running_requests = 256;
  // What may wait; more is refused with RESOURCE_EXHAUSTED.
  std::int64_t max_queued_requests = 512;
  std::int64_t max_queued_tokens = 8388608;
  // Prompt and generated tokens, a minute's worth of which may be used at once; what is
  // beyond that has to come back before requests are taken again: RESOURCE_EXHAUSTED.
  std::int64_t max_tokens_per_minute = 100000000;
  // A longer prompt (a session's history included; what is scored, too) is
  // INVALID_ARGUMENT.
  std::int64_t max_prompt_tokens = 16777216;
  // A higher priority is INVALID_ARGUMENT.
  std::int32_t max_priority = kMaxPriority;
};

}  // namespace goldfinch
