// What a device keeps of TokenCounts: a table for each of the sequences that sampled
// last, so that a token takes one number to it and not all that were counted before.
//
// This is the host's side: which table is whose, and what it lacks. Tables of what nobody
// samples from any more are used again; one whose sequence comes back is filled anew.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/sampling/token_counts.h"

namespace goldfinch {

class CountTables {
 public:
  explicit CountTables(std::int32_t num_tables);

  // What a table lacks.
  enum class Lacks { kNothing, kLastOutput, kAll };
  struct Use {
    std::int32_t table = 0;
    Lacks lacks = Lacks::kAll;
  };

  // From here on tables that are used stay, and one that was changed is not read, until
  // the next call: what a launch does happens in no order.
  void BeginLaunch() { ++launch_; }

  // The table to use for `counts`; none, if that has to wait for the next launch. There
  // is always one for the first of a launch. With `pending` the device will count one
  // more output, which the host has not seen.
  std::optional<Use> Find(const TokenCounts& counts, bool pending = false) const;

  // The table has what it lacked, from now on, and what was pending.
  void Commit(const Use& use, const TokenCounts& counts, bool pending = false);

 private:
  struct Table {
    std::uint64_t id = 0;  // none has this
    std::int64_t num_prompt = 0, num_outputs = 0;
    std::int64_t used = 0, changed = 0;  // launches
  };
  std::vector<Table> tables_;
  std::int64_t launch_ = 0;
};

}  // namespace goldfinch
