#include "engine/cache/expanded_arena.h"

namespace goldfinch {

ExpandedArena::ExpandedArena(std::int64_t num_slots, std::int64_t num_pages)
    : slots_(static_cast<std::size_t>(num_slots)),
      slot_of_page_(static_cast<std::size_t>(num_pages), -1) {
  for (std::int32_t slot = 0; slot < static_cast<std::int32_t>(num_slots); ++slot)
    LinkNewest(slot);
}

void ExpandedArena::SetPages(std::int64_t num_pages) {
  slot_of_page_.assign(static_cast<std::size_t>(num_pages), -1);
}

std::int32_t ExpandedArena::Acquire(std::int32_t page) {
  std::int32_t slot = slot_of_page_[static_cast<std::size_t>(page)];
  if (slot >= 0) {
    ++hits_;
  } else {
    ++misses_;
    slot = oldest_;
    if (slot < 0 || At(slot).last_step == step_) return -1;
    Slot& taken = At(slot);
    if (taken.page >= 0) {
      slot_of_page_[static_cast<std::size_t>(taken.page)] = -1;
      ++evictions_;
    } else {
      ++used_;
    }
    taken.page = page;
    taken.filled = 0;
    slot_of_page_[static_cast<std::size_t>(page)] = slot;
  }
  Keep(slot);
  return slot;
}

void ExpandedArena::Keep(std::int32_t slot) {
  At(slot).last_step = step_;
  Unlink(slot);
  LinkNewest(slot);
}

void ExpandedArena::Drop(std::int32_t page) {
  std::int32_t& slot = slot_of_page_[static_cast<std::size_t>(page)];
  if (slot < 0) return;
  At(slot).page = -1;
  At(slot).filled = 0;
  At(slot).last_step = 0;
  --used_;
  Unlink(slot);
  LinkOldest(slot);
  slot = -1;
}

void ExpandedArena::Unlink(std::int32_t slot) {
  Slot& s = At(slot);
  (s.older >= 0 ? At(s.older).newer : oldest_) = s.newer;
  (s.newer >= 0 ? At(s.newer).older : newest_) = s.older;
  s.older = s.newer = -1;
}

void ExpandedArena::LinkNewest(std::int32_t slot) {
  At(slot).older = newest_;
  (newest_ >= 0 ? At(newest_).newer : oldest_) = slot;
  newest_ = slot;
}

void ExpandedArena::LinkOldest(std::int32_t slot) {
  At(slot).newer = oldest_;
  (oldest_ >= 0 ? At(oldest_).older : newest_) = slot;
  oldest_ = slot;
}

}  // namespace goldfinch
