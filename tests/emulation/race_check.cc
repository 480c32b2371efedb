#include "tests/emulation/race_check.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/emulation/access_count.h"
#include "tests/emulation/die.h"
#include "tests/emulation/kernel.h"
#include "tests/emulation/memory.h"

namespace emulation {
namespace {

// The last ones to read something, or the last one to write it.
struct Users {
  static constexpr std::uint32_t kSeveral = ~std::uint32_t{0};

  std::uint32_t launch = 0;  // 0: nobody
  std::uint32_t block = 0;   // or kSeveral
  std::uint32_t epoch = 0;   // of that block, the latest
  std::uint32_t thread : 16 = 0;
  std::uint32_t several_threads : 1 = 0;  // in that epoch
  std::uint32_t atomic : 1 = 0;
  std::uint32_t copying : 1 = 0;  // an asynchronous copy is under way
};
struct Unit {
  Users read, written;
};

// Bytes are told apart where somebody uses one; before, what all uses were multiples of.
constexpr int kLargestUnit = 16;
struct Page {
  bool device = false;  // global memory, which all blocks of a kernel see
  std::size_t unit_bytes = kLargestUnit;
  std::vector<Unit> units = std::vector<Unit>(kPageBytes / kLargestUnit);

  void Refine(std::size_t bytes) {
    std::vector<Unit> finer;
    finer.reserve(kPageBytes / bytes);
    for (const Unit& unit : units) finer.insert(finer.end(), unit_bytes / bytes, unit);
    units = std::move(finer);
    unit_bytes = bytes;
  }
};

bool watching = false;
// Threads of the host run code, too, that tells of its accesses.
thread_local const User* user = nullptr;
std::uint32_t first_overlapped = 0;

std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
struct Found {
  std::uintptr_t number = 0;
  Page* page = nullptr;
};
std::array<Found, 1024> found;  // the last ones looked for

Page& PageOf(std::uintptr_t at) {
  const std::uintptr_t number = at / kPageBytes;
  Found& slot = found[number % found.size()];
  if (slot.page == nullptr || slot.number != number) {
    std::unique_ptr<Page>& page = pages[number];
    if (page == nullptr) {
      page = std::make_unique<Page>();
      page->device = OnDevicePage(reinterpret_cast<const void*>(number * kPageBytes));
    }
    slot = {number, page.get()};
  }
  return *slot.page;
}

[[noreturn]] void DieOf(const char* what, const Users& other, bool other_wrote, Use use,
                        std::uintptr_t at, const void* from) {
  char text[400];
  char by[64] = "several threads";
  if (other.block == Users::kSeveral)
    std::snprintf(by, sizeof by, "several blocks");
  else if (other.several_threads == 0)
    std::snprintf(by, sizeof by, "thread %u of block %u", unsigned{other.thread},
                  unsigned{other.block});
  std::snprintf(text, sizeof text,
                "a race: %s; %#zx was %s by %s and is %s by thread %u of block %u "
                "(at %p)",
                what, static_cast<std::size_t>(at), other_wrote ? "written" : "read", by,
                use == Use::kRead ? "read" : "written", unsigned{user->thread},
                unsigned{user->block}, from);
  Die(text);
}

// Whether the user's access and the others' may be at the same time, and why.
const char* Concurrent(const Users& others, bool device) {
  if (others.launch == user->launch) {
    if (others.block == user->block)
      return others.epoch == user->epoch &&
                     (others.several_threads != 0 || others.thread != user->thread)
                 ? "no barrier between two threads"
                 : nullptr;
    return device ? "two blocks" : nullptr;
  }
  if (!device || others.launch == 0) return nullptr;
  if (others.launch > user->launch) return "a kernel did not wait for the one before";
  if (!user->waited && others.launch >= first_overlapped)
    return "a kernel does not wait for the one before";
  return nullptr;
}

void Join(Users& readers, bool device) {
  // One of the next kernel, which must not be forgotten for one of this.
  if (readers.launch > user->launch) return;
  if (readers.launch == user->launch && readers.block != user->block && device) {
    readers.block = Users::kSeveral;
    return;
  }
  const bool same = readers.launch == user->launch && readers.epoch == user->epoch &&
                    readers.block == user->block;
  const bool several =
      same && (readers.several_threads != 0 || readers.thread != user->thread);
  readers = {.launch = user->launch,
             .block = user->block,
             .epoch = user->epoch,
             .thread = user->thread,
             .several_threads = several};
}

void Check(Unit& unit, bool device, Use use, std::uintptr_t at, const void* from) {
  if (unit.written.copying != 0 && unit.written.launch == user->launch &&
      unit.written.block == user->block)
    DieOf("an asynchronous copy was not waited for", unit.written, true, use, at, from);
  const bool atomics = use == Use::kAtomic && unit.written.atomic != 0;
  if (!atomics)
    if (const char* const why = Concurrent(unit.written, device))
      DieOf(why, unit.written, true, use, at, from);
  if (use == Use::kRead) {
    Join(unit.read, device);
    return;
  }
  if (const char* const why = Concurrent(unit.read, device))
    DieOf(why, unit.read, false, use, at, from);
  unit.written = {.launch = user->launch,
                  .block = user->block,
                  .epoch = user->epoch,
                  .thread = user->thread,
                  .atomic = use == Use::kAtomic};
}

// Calls visit(unit, whether it is global memory, address) for each of them.
template <typename Visit>
void ForUnits(const void* p, std::size_t bytes, const Visit& visit) {
  const auto begin = reinterpret_cast<std::uintptr_t>(p);
  // The largest power of two that divides the ends.
  const std::uintptr_t ends = begin | bytes;
  const std::size_t unit_bytes = ends & (~ends + 1);
  for (std::uintptr_t at = begin; at < begin + bytes;) {
    Page& page = PageOf(at);
    if (unit_bytes < page.unit_bytes) page.Refine(unit_bytes);
    const std::uintptr_t end =
        std::min(begin + bytes, (at / kPageBytes + 1) * kPageBytes);
    for (; at < end; at += page.unit_bytes)
      visit(page.units[at % kPageBytes / page.unit_bytes], page.device, at);
  }
}

void Count(const void* p, std::size_t bytes, Use use, const void* from) {
  const bool shared = OnShared(p);
  if (!shared && !InMemory(p, bytes, Place::kDevice)) return;
  CountAccess(p, bytes, shared ? Memory::kShared : Memory::kDevice, use != Use::kRead,
              current->warp, current->lane, from);
}

}  // namespace

void StartWatching() { watching = true; }
bool Watching() { return watching; }
void SetUser(const User* value) { user = value; }
void SetOverlapped(std::uint32_t first) { first_overlapped = first; }

void OnUse(const void* p, std::size_t bytes, Use use, const void* from) {
  if (user == nullptr || OnStack(p)) return;
  if (Counting()) {
    Count(p, bytes, use, from);
    return;
  }
  ForUnits(p, bytes, [use, from](Unit& unit, bool device, std::uintptr_t at) {
    if (device && use != Use::kRead && !user->waited)
      Die("a kernel writes before it waits for the one before");
    Check(unit, device, use, at, from);
  });
}

void OnCopyBegin(const void* p, std::size_t bytes, const void* from) {
  OnUse(p, bytes, Use::kWrite, from);
  if (Counting()) return;
  ForUnits(p, bytes,
           [](Unit& unit, bool, std::uintptr_t) { unit.written.copying = true; });
}

void OnCopyEnd(const void* p, std::size_t bytes) {
  if (Counting()) return;
  ForUnits(p, bytes,
           [](Unit& unit, bool, std::uintptr_t) { unit.written.copying = false; });
  OnUse(p, bytes, Use::kWrite, nullptr);
}

void ForgetUses(const void* p, std::size_t bytes) {
  if (!watching) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(p);
  for (std::uintptr_t number = begin / kPageBytes;
       number <= (begin + bytes - 1) / kPageBytes; ++number)
    pages.erase(number);
  found.fill({});
}

}  // namespace emulation
