// How well a warp's accesses to memory go together, by count: of shared memory, how often
// its 32 banks must be asked, and of device memory, how many sectors of 32 bytes are
// moved, where how many would do. A kernel's code decides both, so a host can count them.
//
// A request is what the lanes of a warp do at one place of the program, each for the
// so-and-so-many-th time since the block's last barrier. That is what a device does while
// lanes stay together; where they part, it is a guess.
//
// Threads: the one that runs kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulation {

enum class Memory { kShared, kDevice };

// Of one kernel, at one place of it.
struct Accesses {
  std::string kernel;
  const void* place = nullptr;
  Memory memory = Memory::kShared;
  bool writes = false;
  std::int64_t requests = 0;
  std::int64_t moved = 0;   // askings of the banks, or sectors
  std::int64_t needed = 0;  // the fewest of them that hold the bytes that were used
};

// From here on accesses are counted instead of checked for races; nothing was, yet.
void StartCounting();
bool Counting();
// Those since, and an end to it.
std::vector<Accesses> StopCounting();

// By the thread that runs, which is this lane of this warp of its block.
void CountAccess(const void* p, std::size_t bytes, Memory memory, bool writes,
                 unsigned warp, unsigned lane, const void* place);
// What the threads of the block that runs, of this kernel, have done so far is complete.
void EndRequests(const char* kernel);

}  // namespace emulation
