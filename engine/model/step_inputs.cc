#include <algorithm>

#include "engine/model/workspace.h"

namespace goldfinch {
namespace {

// Of a place; also keeps arrays of one op off each other's cache lines.
constexpr std::int64_t kAlignment = 64;
// What lies between two staged arrays is copied along with them where that takes no
// longer than a copy of their own would: a few microseconds on a bus of 20 GB/s. Without
// a bus that is nothing but what is left of a place.
constexpr std::int64_t kMaxGap = 64 << 10;

}  // namespace

std::int64_t StepInputs::Reserve(std::int64_t bytes) {
  GOLDFINCH_CHECK(device_ == nullptr);
  const std::int64_t place = size_;
  size_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return place;
}

void StepInputs::Take() {
  host_.resize(static_cast<std::size_t>(size_));
  device_ = static_cast<std::byte*>(arena_.TakeBytes(size_));
  // Every array, twice: more are staged before an Upload only by mistake.
  staged_.reserve(64);
}

void StepInputs::Stage(std::int64_t place, std::int64_t bytes) {
  if (bytes > 0) staged_.push_back({place, place + bytes});
}

void StepInputs::Upload() {
  std::sort(staged_.begin(), staged_.end(),
            [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  const std::int64_t max_gap = arena_.backend().copies_wait() ? kMaxGap : kAlignment;
  for (std::size_t i = 0; i < staged_.size();) {
    Piece all = staged_[i++];
    for (; i < staged_.size() && staged_[i].begin - all.end <= max_gap; ++i)
      all.end = std::max(all.end, staged_[i].end);
    arena_.backend().CopyToDevice(device_ + all.begin, host(all.begin),
                                  all.end - all.begin);
  }
  staged_.clear();
}

}  // namespace goldfinch
