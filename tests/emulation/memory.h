// Device memory and page-locked host memory of the emulated device: what there is, where
// it ends, and whether somebody wrote beyond.
//
// Threads: one at a time.
#pragma once

#include <cstddef>

namespace emulation {

// Memory that a kernel can write comes in whole pages, so that no page has two kinds of
// it; but with the address sanitizer, which is to see where it ends.
inline constexpr std::size_t kPageBytes = 4096;
void* TakePages(std::size_t bytes, std::size_t alignment);  // for free(); dies for want

enum class Place { kDevice, kHost };

// Null where there is not so much left. Filled with NaNs, as a real device's may be; the
// start is a multiple of 256 and of nothing larger. Before and behind it lie bytes that
// nobody may write; with the address sanitizer its own.
void* TakeMemory(std::size_t bytes, Place place);
// Of what TakeMemory gave (dies otherwise).
void ReturnMemory(void* p, Place place);

// Whether [p, p + bytes) is inside one piece of such memory.
bool InMemory(const void* p, std::size_t bytes, Place place);
// Whether some of the page that starts at `p` is device memory.
bool OnDevicePage(const void* p);

// Dies if the bytes around some piece are not as they were.
void CheckGuards();

// Of device memory.
std::size_t TotalBytes();
std::size_t FreeBytes();

}  // namespace emulation
