#include "engine/model/attend_runs.h"

#include <algorithm>
#include <numeric>

namespace goldfinch {
namespace {

constexpr std::int32_t kCut = KvTiles::kCutTiles;

std::int32_t DivideUp(std::int32_t a, std::int32_t b) { return (a + b - 1) / b; }

}  // namespace

void AttendRuns::Reserve(std::int64_t lists, std::int64_t rows) {
  const auto count = static_cast<std::size_t>(lists);
  lists_.reserve(count);
  shared_.reserve(count);
  place_.reserve(count);
  row_begin_.reserve(count + 1);
  order_.reserve(static_cast<std::size_t>(rows));
  runs_.reserve(2 * count);  // a tree with as many leaves
}

std::span<const std::int32_t> AttendRuns::TilesOf(std::int32_t list) const {
  const auto at = static_cast<std::size_t>(list);
  const auto begin = static_cast<std::size_t>(tile_begin_[at]);
  return tile_.subspan(begin, static_cast<std::size_t>(tile_begin_[at + 1]) - begin);
}

void AttendRuns::Build(std::span<const std::int32_t> tile_begin,
                       std::span<const std::int32_t> tile,
                       std::span<const std::int32_t> row_list) {
  tile_begin_ = tile_begin;
  tile_ = tile;
  lists_.resize(tile_begin.size() - 1);
  std::iota(lists_.begin(), lists_.end(), 0);
  std::ranges::sort(lists_, [&](std::int32_t a, std::int32_t b) {
    const auto of_a = TilesOf(a), of_b = TilesOf(b);
    const auto [in_a, in_b] = std::ranges::mismatch(of_a, of_b);
    if (in_a == of_a.end() || in_b == of_b.end())
      return of_a.size() != of_b.size() ? of_a.size() < of_b.size() : a < b;
    return *in_a < *in_b;
  });
  Order(row_list);
  shared_.assign(lists_.size(), 0);
  for (std::size_t place = 1; place < lists_.size(); ++place) {
    const auto before = TilesOf(lists_[place - 1]), own = TilesOf(lists_[place]);
    const auto same = std::ranges::mismatch(before, own).in1 - before.begin();
    shared_[place] = static_cast<std::size_t>(same - same % kCut);
  }
  runs_.clear();
  num_items_ = 0;
  if (!lists_.empty()) Split(0, lists_.size(), 0);
  tile_begin_ = tile_ = {};
}

// Counts the rows of each list, then puts them where they belong.
void AttendRuns::Order(std::span<const std::int32_t> row_list) {
  place_.resize(lists_.size());
  for (std::size_t place = 0; place < lists_.size(); ++place)
    place_[static_cast<std::size_t>(lists_[place])] = static_cast<std::int32_t>(place);
  const auto place_of = [&](std::int32_t list) {
    return static_cast<std::size_t>(place_[static_cast<std::size_t>(list)]);
  };
  row_begin_.assign(lists_.size() + 1, 0);
  for (const std::int32_t list : row_list) ++row_begin_[place_of(list) + 1];
  std::partial_sum(row_begin_.begin(), row_begin_.end(), row_begin_.begin());
  order_.resize(row_list.size());
  // From the last row on, so that the ends of lists become their begins.
  for (std::size_t row = row_list.size(); row-- > 0;) {
    std::int32_t& end = row_begin_[place_of(row_list[row]) + 1];
    order_[static_cast<std::size_t>(--end)] = static_cast<std::int32_t>(row);
  }
  std::rotate(row_begin_.begin(), row_begin_.begin() + 1, row_begin_.end());
  row_begin_.back() = static_cast<std::int32_t>(row_list.size());
}

// Lists at places [begin, end), which begin with `depth` tiles that are in runs already.
void AttendRuns::Split(std::size_t begin, std::size_t end, std::size_t depth) {
  if (end - begin == 1) {
    const std::size_t all = TilesOf(lists_[begin]).size();
    if (all > depth || depth == 0) Add(begin, end, depth, all);
    return;
  }
  const std::size_t common =
      *std::min_element(shared_.begin() + static_cast<std::ptrdiff_t>(begin) + 1,
                        shared_.begin() + static_cast<std::ptrdiff_t>(end));
  if (common > depth) Add(begin, end, depth, common);
  // Between neighbours that have no more than that in common.
  for (std::size_t first = begin, place = begin + 1; place <= end; ++place) {
    if (place < end && shared_[place] > common) continue;
    Split(first, place, common);
    first = place;
  }
}

// Tiles [first, last) of the lists at places [begin, end).
void AttendRuns::Add(std::size_t begin, std::size_t end, std::size_t first,
                     std::size_t last) {
  AttendRun run{.row_begin = row_begin_[begin], .row_end = row_begin_[end]};
  if (run.row_begin == run.row_end) return;
  const std::int32_t list = tile_begin_[static_cast<std::size_t>(lists_[begin])];
  run.tile_begin = list + static_cast<std::int32_t>(first);
  run.tile_end = list + static_cast<std::int32_t>(last);
  run.first_chunk = static_cast<std::int32_t>(first / kCut);
  run.first_item = num_items_;
  num_items_ += DivideUp(static_cast<std::int32_t>(last - first), kCut) *
                DivideUp(run.row_end - run.row_begin, AttendRun::kRowsAtOnce);
  runs_.push_back(run);
}

}  // namespace goldfinch
