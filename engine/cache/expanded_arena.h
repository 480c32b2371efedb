// Which pages have their keys and values expanded, and where.
//
// The compressed pages are the truth; this is a bounded cache over them. A slot holds
// the keys and values of one page for all GOLD layers together, because a step always
// needs them together. Slots are evicted least recently used first, never one used by
// the current step.
//
// Invariant: at most one slot a page; `filled` rows of a slot, from the page's start,
// are valid. Shared pages share their slot. A step in vain (Engine::QueueNext) leaves a row
// filled that its page will not have: whoever goes on from before it copies the page.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <vector>

namespace goldfinch {

class ExpandedArena {
 public:
  ExpandedArena(std::int64_t num_slots, std::int64_t num_pages);

  // For pages [0, num_pages), none of which has a slot yet; before the first Acquire.
  void SetPages(std::int64_t num_pages);

  std::int64_t num_slots() const { return static_cast<std::int64_t>(slots_.size()); }
  std::int64_t used() const { return used_; }

  // Since the arena was made. A page is looked up once a step and sequence: a hit when it
  // had a slot, a miss when it got one or had to do without.
  std::int64_t hits() const { return hits_; }
  std::int64_t misses() const { return misses_; }
  std::int64_t evictions() const { return evictions_; }

  // Starts a step: slots acquired from now on stay until the next BeginStep.
  void BeginStep() { ++step_; }

  // The slot of `page` for this step; a new one has filled() = 0. -1 when every slot is
  // in use by this step.
  std::int32_t Acquire(std::int32_t page);

  // The slot of `page`; -1 when it has none. Counts nothing.
  std::int32_t Find(std::int32_t page) const {
    return slot_of_page_[static_cast<std::size_t>(page)];
  }
  // Keeps it as Acquire does, and counts nothing.
  void Keep(std::int32_t slot);

  std::int64_t filled(std::int32_t slot) const { return At(slot).filled; }
  void set_filled(std::int32_t slot, std::int64_t rows) { At(slot).filled = rows; }

  // Counts a page that is done without, though nobody asked for its slot.
  void CountMiss() { ++misses_; }

  // The page's content is gone; its slot, if any, is free.
  void Drop(std::int32_t page);

 private:
  struct Slot {
    std::int32_t page = -1;
    std::int64_t filled = 0;
    std::uint64_t last_step = 0;
    std::int32_t older = -1, newer = -1;  // list by use; free slots are the oldest
  };
  Slot& At(std::int32_t slot) { return slots_[static_cast<std::size_t>(slot)]; }
  const Slot& At(std::int32_t slot) const {
    return slots_[static_cast<std::size_t>(slot)];
  }
  void Unlink(std::int32_t slot);
  void LinkNewest(std::int32_t slot);
  void LinkOldest(std::int32_t slot);

  std::vector<Slot> slots_;
  std::vector<std::int32_t> slot_of_page_;  // -1: none
  std::int32_t oldest_ = -1, newest_ = -1;
  std::int64_t used_ = 0;
  std::int64_t hits_ = 0, misses_ = 0, evictions_ = 0;
  std::uint64_t step_ = 1;
};

}  // namespace goldfinch
