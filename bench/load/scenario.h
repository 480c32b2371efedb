// What goldfinch-load does to a server: who sends which requests, how many or how often,
// and for how long. Read from JSON:
//
//   {"duration_seconds": 30, "warmup_seconds": 5, "tail_seconds": 10, "seed": 1,
//    "tenants": [
//      {"name": "flood", "key": "...", "concurrent": 64, "prompt_tokens": 4000,
//       "max_tokens": 500},
//      {"name": "short", "key": "...", "rate": 2.5, "prompt_tokens": 64,
//       "max_tokens": 32, "priority": 1, "group": "the small ones"}]}
//
// An entry has either `concurrent`, requests that it keeps going, each followed by the
// next one, or `rate`, requests a second that come at random moments whatever became of
// those before (Poisson, from the seed). Several entries may have one key: a tenant that
// sends several kinds of requests. What entries of one `group` saw is reported together,
// too: percentiles of all their requests.
//
// Errors name the field and never what a key is.
//
// Threads: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace goldfinch {

struct LoadTenant {
  std::string name;
  std::string key = {};         // empty: none is sent
  std::string group = {};       // empty: none
  std::int64_t concurrent = 0;  // 0: by `rate`
  double rate = 0;              // requests a second
  std::int64_t prompt_tokens = 0;
  std::int64_t max_tokens = 0;  // generated to the last one, end of text or not
  std::int32_t priority = 0;
};

struct Scenario {
  double duration_seconds = 0;  // of the window that is measured
  double warmup_seconds = 0;    // before it
  // Time that requests of the window get to end, the load going on; those of entries with
  // a rate are waited for, the others not.
  double tail_seconds = 10;
  std::uint64_t seed = 1;  // of arrivals and prompts
  std::vector<LoadTenant> tenants;
};

absl::StatusOr<Scenario> ParseScenario(const std::string& text);

}  // namespace goldfinch
