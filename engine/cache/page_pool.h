// Which pages of the cache are in use, and by how many sequences.
//
// Invariant: used() + free pages = num_pages(); a page is free exactly when nobody
// holds a reference. Knows nothing of what is in a page.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <vector>

namespace goldfinch {

class PagePool {
 public:
  explicit PagePool(std::int64_t num_pages);

  std::int64_t num_pages() const { return static_cast<std::int64_t>(refs_.size()); }
  std::int64_t used() const {
    return num_pages() - static_cast<std::int64_t>(free_.size());
  }

  // Appends `count` pages, one reference each, to `pages`; false, and nothing taken,
  // when fewer are free.
  bool Allocate(std::int64_t count, std::vector<std::int32_t>& pages);

  // One more reference to a page in use.
  void Ref(std::int32_t page);

  // One reference less; true when that was the last one and the page is free.
  bool Unref(std::int32_t page);

 private:
  std::vector<std::int32_t> refs_;
  std::vector<std::int32_t> free_;  // a stack: the page used last is reused first
};

}  // namespace goldfinch
