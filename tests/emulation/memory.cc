#include "tests/emulation/memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/emulation/die.h"
#include "tests/emulation/emulation.h"
#include "tests/emulation/race_check.h"

namespace emulation {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif
constexpr std::size_t kGuardBytes = kAddressSanitizer ? 0 : 256;
constexpr std::size_t kAlignment = 256;
// In float32, bf16 and float64 a NaN.
constexpr unsigned char kFill = 0xff;

constexpr std::size_t kDeviceBytes = std::size_t{64} << 30;

struct Piece {
  Place place;
  std::size_t bytes;
};
std::map<const unsigned char*, Piece> pieces;
std::size_t allocated[2] = {};  // by Place
std::size_t total_bytes = kDeviceBytes;
std::int64_t allocations = 0;

std::size_t& AllocatedIn(Place place) { return allocated[static_cast<int>(place)]; }

void CheckGuard(const unsigned char* p, const Piece& piece) {
  const auto is_fill = [](unsigned char c) { return c == kFill; };
  if (!std::all_of(p - kGuardBytes, p, is_fill) ||
      !std::all_of(p + piece.bytes, p + piece.bytes + kGuardBytes, is_fill))
    Die("memory was written before its start or behind its end");
}

}  // namespace

void* TakePages(std::size_t bytes, std::size_t alignment) {
  void* p = nullptr;
  if (posix_memalign(&p, kAddressSanitizer ? alignment : kPageBytes,
                     kAddressSanitizer
                         ? bytes
                         : (bytes + kPageBytes - 1) / kPageBytes * kPageBytes) != 0)
    Die("the machine has no memory left");
  ForgetUses(p, bytes);
  return p;
}

void* TakeMemory(std::size_t bytes, Place place) {
  if (place == Place::kDevice && bytes > FreeBytes()) return nullptr;
  void* const all = TakePages(bytes + 2 * kGuardBytes, kAlignment + kGuardBytes);
  std::memset(all, kFill, bytes + 2 * kGuardBytes);
  unsigned char* const p = static_cast<unsigned char*>(all) + kGuardBytes;
  pieces[p] = {place, bytes};
  AllocatedIn(place) += bytes;
  ++allocations;
  return p;
}

void ReturnMemory(void* p, Place place) {
  const auto found = pieces.find(static_cast<const unsigned char*>(p));
  if (found == pieces.end() || found->second.place != place)
    Die("memory is freed that was not allocated");
  CheckGuard(found->first, found->second);
  AllocatedIn(place) -= found->second.bytes;
  pieces.erase(found);
  std::free(static_cast<unsigned char*>(p) - kGuardBytes);
}

bool InMemory(const void* p, std::size_t bytes, Place place) {
  const auto* const at = static_cast<const unsigned char*>(p);
  const auto after = pieces.upper_bound(at);
  if (after == pieces.begin()) return false;
  const auto& [begin, piece] = *std::prev(after);
  return piece.place == place && at + bytes <= begin + piece.bytes;
}

bool OnDevicePage(const void* p) {
  const auto* const begin = static_cast<const unsigned char*>(p);
  const auto after = pieces.lower_bound(begin + kPageBytes);
  if (after == pieces.begin()) return false;
  const auto& [start, piece] = *std::prev(after);
  return piece.place == Place::kDevice && start + piece.bytes > begin;
}

void CheckGuards() {
  for (const auto& [p, piece] : pieces) CheckGuard(p, piece);
}

std::size_t TotalBytes() { return total_bytes; }
std::size_t FreeBytes() {
  return total_bytes - std::min(total_bytes, AllocatedIn(Place::kDevice));
}

std::int64_t AllocatedBytes() {
  return static_cast<std::int64_t>(AllocatedIn(Place::kDevice) +
                                   AllocatedIn(Place::kHost));
}
std::int64_t DeviceBytes() {
  return static_cast<std::int64_t>(AllocatedIn(Place::kDevice));
}
std::int64_t NumAllocations() { return allocations; }
void SetDeviceMemory(std::int64_t bytes) {
  total_bytes = bytes < 0 ? kDeviceBytes : static_cast<std::size_t>(bytes);
}

}  // namespace emulation
