#include "engine/sync/uneven_parts.h"

#include <algorithm>

#include "engine/check.h"

namespace goldfinch {

void UnevenParts::Reserve(std::int64_t groups) {
  groups_.reserve(static_cast<std::size_t>(groups));
}

void UnevenParts::Clear() {
  groups_.clear();
  end_ = 0;
  num_parts_ = 0;
}

void UnevenParts::Add(std::int64_t parts, std::int64_t work_of_each) {
  GOLDFINCH_CHECK(work_of_each > 0);
  groups_.push_back(
      {.begin = end_, .first_part = num_parts_, .work_of_each = work_of_each});
  end_ += parts * work_of_each;
  num_parts_ += parts;
}

std::int64_t UnevenParts::FirstFrom(std::int64_t at) const {
  if (at >= end_) return num_parts_;
  const auto behind = std::upper_bound(
      groups_.begin(), groups_.end(), at,
      [](std::int64_t a, const Group& group) { return a < group.begin; });
  const Group& group = *(behind - 1);
  const std::int64_t each = group.work_of_each;
  return group.first_part + (at - group.begin + each - 1) / each;
}

}  // namespace goldfinch
