#include "engine/cache/page_pool.h"

#include "engine/check.h"

namespace goldfinch {

PagePool::PagePool(std::int64_t num_pages)
    : refs_(static_cast<std::size_t>(num_pages), 0) {
  free_.reserve(refs_.size());
  for (std::int64_t page = num_pages - 1; page >= 0; --page)
    free_.push_back(static_cast<std::int32_t>(page));
}

bool PagePool::Allocate(std::int64_t count, std::vector<std::int32_t>& pages) {
  if (count > static_cast<std::int64_t>(free_.size())) return false;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t page = free_.back();
    free_.pop_back();
    refs_[static_cast<std::size_t>(page)] = 1;
    pages.push_back(page);
  }
  return true;
}

void PagePool::Ref(std::int32_t page) {
  std::int32_t& refs = refs_[static_cast<std::size_t>(page)];
  GOLDFINCH_CHECK(refs > 0);
  ++refs;
}

bool PagePool::Unref(std::int32_t page) {
  std::int32_t& refs = refs_[static_cast<std::size_t>(page)];
  GOLDFINCH_CHECK(refs > 0);
  if (--refs > 0) return false;
  free_.push_back(page);
  return true;
}

}  // namespace goldfinch
