// Bytes in host memory that are not filled before they are written: to fill 25 MB costs
// as much as to copy it.
//
// Threads: as a vector.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace goldfinch {

class HostBytes {
 public:
  HostBytes() = default;
  explicit HostBytes(std::size_t size)
      : data_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}

  std::size_t size() const { return size_; }
  std::span<std::byte> span() { return {data_.get(), size_}; }
  std::span<const std::byte> span() const { return {data_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
};

// memcpy for what is in no cache and need not come into one: asks for what comes later
// and writes past the caches, so that nothing is read only to be overwritten. Two thirds
// of memcpy's time for megabytes; what it writes is in memory afterwards, not in a cache.
void CopyPastCaches(void* to, const void* from, std::size_t bytes);

// For a program's start: buffers that are freed are used again instead of given back to
// the system and taken anew, whose first use costs several times the copy into them. Up
// to 256 MiB of free memory stays so in each of the allocator's arenas.
void ReuseLargeBuffers();

}  // namespace goldfinch
