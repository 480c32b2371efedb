// Which pages have their keys and values expanded, and where.
//
// The compressed pages are the truth; this is a bounded cache over them. A frame is room
// for one expanded page, as a page frame is for a page of virtual memory: for its keys
// and values of all GOLD layers together, because a step always needs them together.
// Frame i is tile i of each of these layers. A slot is something else, the room for a
// sequence's state. Frames are evicted least recently used first, never one used by the
// current step.
//
// Invariant: at most one frame a page; `filled` rows of a frame, from the page's start,
// are valid. Shared pages share their frame. A step in vain (Engine::QueueNext) leaves a
// row filled that its page will not have: whoever goes on from before it copies the page.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace goldfinch {

class ExpandedArena {
 public:
  ExpandedArena(std::int64_t num_frames, std::int64_t num_pages);

  // For pages [0, num_pages), none of which has a frame yet; before the first Acquire.
  void SetPages(std::int64_t num_pages);

  std::int64_t num_frames() const { return static_cast<std::int64_t>(frames_.size()); }
  std::int64_t used() const { return used_; }

  // Since the arena was made. A page is looked up once a step and sequence: a hit when it
  // had a frame, a miss when it got one or had to do without, and then rebuilt as well.
  std::int64_t hits() const { return hits_; }
  std::int64_t misses() const { return misses_; }
  std::int64_t evictions() const { return evictions_; }
  std::int64_t rebuilt() const { return rebuilt_; }

  // Starts a step: frames acquired from now on stay until the next BeginStep.
  void BeginStep() {
    ++step_;
    reserved_ = 0;
  }

  // Whether all of `pages` could have frames in this step together with what is reserved
  // in it already; pages reserved before count once. If so, those that have one keep it,
  // and Acquire finds one for each of the others as long as it is asked for no more pages
  // than these. Counts nothing.
  bool Reserve(std::span<const std::int32_t> pages);

  // The frame of `page` for this step; a new one has filled() = 0. -1 when every frame is
  // in use by this step.
  std::int32_t Acquire(std::int32_t page);

  // The frame of `page`; -1 when it has none. Counts nothing.
  std::int32_t Find(std::int32_t page) const {
    return frame_of_page_[static_cast<std::size_t>(page)];
  }
  // Keeps it as Acquire does, and counts nothing.
  void Keep(std::int32_t frame);

  std::int64_t filled(std::int32_t frame) const { return At(frame).filled; }
  void set_filled(std::int32_t frame, std::int64_t rows) { At(frame).filled = rows; }

  // Counts a page for which nobody asked, because one before it got no frame.
  void CountMiss() { ++misses_; }
  // Counts one that a step rebuilds for itself, having no frame for it.
  void CountRebuilt() { ++rebuilt_; }

  // The page's content is gone; its frame, if any, is free.
  void Drop(std::int32_t page);

 private:
  struct Frame {
    std::int32_t page = -1;
    std::int64_t filled = 0;
    std::uint64_t last_step = 0;
    std::int32_t older = -1, newer = -1;  // list by use; free frames are the oldest
  };
  Frame& At(std::int32_t frame) { return frames_[static_cast<std::size_t>(frame)]; }
  const Frame& At(std::int32_t frame) const {
    return frames_[static_cast<std::size_t>(frame)];
  }
  void Unlink(std::int32_t frame);
  void LinkNewest(std::int32_t frame);
  void LinkOldest(std::int32_t frame);

  std::vector<Frame> frames_;
  std::vector<std::int32_t> frame_of_page_;  // -1: none
  std::vector<std::uint64_t> reserved_in_;   // by page: the step
  std::int64_t reserved_ = 0;                // pages, in this step
  std::int32_t oldest_ = -1, newest_ = -1;
  std::int64_t used_ = 0;
  std::int64_t hits_ = 0, misses_ = 0, evictions_ = 0, rebuilt_ = 0;
  std::uint64_t step_ = 1;
};

}  // namespace goldfinch
