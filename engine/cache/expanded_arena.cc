#include "engine/cache/expanded_arena.h"

#include <algorithm>

namespace goldfinch {

ExpandedArena::ExpandedArena(std::int64_t num_frames, std::int64_t num_pages)
    : frames_(static_cast<std::size_t>(num_frames)),
      frame_of_page_(static_cast<std::size_t>(num_pages), -1),
      reserved_in_(static_cast<std::size_t>(num_pages), 0) {
  for (std::int32_t frame = 0; frame < static_cast<std::int32_t>(num_frames); ++frame)
    LinkNewest(frame);
}

void ExpandedArena::SetPages(std::int64_t num_pages) {
  frame_of_page_.assign(static_cast<std::size_t>(num_pages), -1);
  reserved_in_.assign(static_cast<std::size_t>(num_pages), 0);
}

bool ExpandedArena::Reserve(std::span<const std::int32_t> pages) {
  const auto is_new = [this](std::int32_t page) {
    return reserved_in_[static_cast<std::size_t>(page)] != step_;
  };
  const std::int64_t total = reserved_ + std::ranges::count_if(pages, is_new);
  if (total > num_frames()) return false;
  for (const std::int32_t page : pages) {
    if (!is_new(page)) continue;
    reserved_in_[static_cast<std::size_t>(page)] = step_;
    if (const std::int32_t frame = Find(page); frame >= 0) Keep(frame);
  }
  reserved_ = total;
  return true;
}

std::int32_t ExpandedArena::Acquire(std::int32_t page) {
  std::int32_t frame = frame_of_page_[static_cast<std::size_t>(page)];
  if (frame >= 0) {
    ++hits_;
  } else {
    ++misses_;
    frame = oldest_;
    if (frame < 0 || At(frame).last_step == step_) return -1;
    Frame& taken = At(frame);
    if (taken.page >= 0) {
      frame_of_page_[static_cast<std::size_t>(taken.page)] = -1;
      ++evictions_;
    } else {
      ++used_;
    }
    taken.page = page;
    taken.filled = 0;
    frame_of_page_[static_cast<std::size_t>(page)] = frame;
  }
  Keep(frame);
  return frame;
}

void ExpandedArena::Keep(std::int32_t frame) {
  At(frame).last_step = step_;
  Unlink(frame);
  LinkNewest(frame);
}

void ExpandedArena::Drop(std::int32_t page) {
  std::int32_t& frame = frame_of_page_[static_cast<std::size_t>(page)];
  if (frame < 0) return;
  At(frame).page = -1;
  At(frame).filled = 0;
  At(frame).last_step = 0;
  --used_;
  Unlink(frame);
  LinkOldest(frame);
  frame = -1;
}

void ExpandedArena::Unlink(std::int32_t frame) {
  Frame& f = At(frame);
  (f.older >= 0 ? At(f.older).newer : oldest_) = f.newer;
  (f.newer >= 0 ? At(f.newer).older : newest_) = f.older;
  f.older = f.newer = -1;
}

void ExpandedArena::LinkNewest(std::int32_t frame) {
  At(frame).older = newest_;
  (newest_ >= 0 ? At(newest_).newer : oldest_) = frame;
  newest_ = frame;
}

void ExpandedArena::LinkOldest(std::int32_t frame) {
  At(frame).newer = oldest_;
  (oldest_ >= 0 ? At(oldest_).older : newest_) = frame;
  oldest_ = frame;
}

}  // namespace goldfinch
