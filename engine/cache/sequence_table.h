// Which sequences are open and which prefixes are kept, with their slots and pages: the
// host's half of the engine, which knows no tensors.
//
// A prefix shares the pages of the sequence it was kept of, the last one, partly filled,
// included: the sequence goes on writing behind the prefix's last token, where the prefix
// does not look. A sequence that goes on from a prefix shares its full pages and copies
// the partly filled one.
//
// A sequence has a state slot, and a second one while a step is queued for it of which it
// is not certain that it will be wanted: the state behind that step goes there.
//
// Invariants: a slot is free or has one open sequence, and there is a free one for each
// sequence that can still be opened; a page is held once by each sequence and prefix that
// uses it, and is free when nobody does.
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cache/page_pool.h"
#include "engine/engine.h"
#include "engine/gold_rows.h"
#include "engine/host_bytes.h"
#include "engine/sampling/token_counts.h"

namespace goldfinch {

// One open sequence.
struct Sequence {
  bool open = false;
  std::int32_t slot = -1;
  std::int32_t next_slot = -1;  // none
  SequenceSpec spec = {};
  std::int64_t length = 0;
  std::int64_t num_generated = 0;
  GoldRows gold = {};
  std::vector<std::int32_t> pages = {};    // shared ones first
  std::optional<TokenCounts> counts = {};  // only with penalties
  SequenceId parent = SequenceId::kNone;   // until Branch
  std::int64_t branch_at = 0;
};

struct Prefix {
  bool kept = false;
  std::int64_t length = 0;
  GoldRows gold = {};
  std::vector<std::int32_t> pages = {};
  std::shared_ptr<const HostBytes> state = nullptr;  // its images share it
};

class SequenceTable {
 public:
  // `on_free` hears of every page that nobody holds any more.
  // There are `spare_slots` more slots than sequences.
  SequenceTable(const EngineInfo& info, std::int64_t spare_slots,
                std::function<void(std::int32_t)> on_free);

  Sequence& Get(SequenceId id);  // CHECK: it is open
  Prefix& Get(PrefixId id);      // CHECK: it is kept
  const Prefix& Get(PrefixId id) const;
  EngineUsage usage() const;

  // A slot, and pages for spec.max_tokens of which the first are `shared`.
  // RESOURCE_EXHAUSTED, with nothing taken, when they are not free.
  absl::StatusOr<SequenceId> Open(const SequenceSpec& spec,
                                  std::span<const std::int32_t> shared);
  void Close(SequenceId id);

  // How many sequences can take a second slot.
  std::int64_t spare_slots() const {
    return static_cast<std::int64_t>(free_slots_.size() - free_ids_.size());
  }
  void TakeNextSlot(Sequence& sequence);
  // It becomes the sequence's slot.
  void MoveToNextSlot(Sequence& sequence);

  // A prefix of the sequence's tokens so far, without its state.
  PrefixId Keep(SequenceId id);
  // A prefix of `length` tokens on pages of its own.
  absl::StatusOr<PrefixId> NewPrefix(std::int64_t length);
  void Drop(PrefixId id);

  // The pages of `prefix` that are full.
  std::span<const std::int32_t> FullPages(const Prefix& prefix) const;
  std::int64_t PagesToOpen(PrefixId base, std::int64_t max_tokens) const;

 private:
  std::int32_t TakeSlot();
  PrefixId AddPrefix(Prefix prefix);
  void Release(std::span<const std::int32_t> pages);

  const EngineInfo& info_;
  const std::function<void(std::int32_t)> on_free_;
  PagePool pool_;
  std::vector<std::int32_t> open_refs_;  // by page: sequences that hold it
  std::int64_t pages_open_ = 0;
  std::vector<Sequence> sequences_;  // by id
  std::vector<std::int32_t> free_ids_, free_slots_;
  std::vector<Prefix> prefixes_;  // grows to the most that were kept at once
  std::vector<std::int32_t> free_prefixes_;
};

}  // namespace goldfinch
