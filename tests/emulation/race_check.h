// Races of kernels: two threads that use the same byte, one of them to write it, with
// nothing between that says who comes first. Within a block only a barrier says so (the
// lanes of a warp are no exception), between blocks of a kernel nothing does, and a
// kernel that need not wait for the one before it must have waited. Whatever order the
// emulated threads have run in, and whether or not the bits came out right, such a pair
// ends the test with the name of the kernel.
//
// Accesses are told by the compiler: code built with -fsanitize=thread calls a function
// before each of them (race_hooks.cc takes the place of the sanitizer's library, which
// knows nothing of fibers or barriers of blocks). In a program without such code nothing
// is watched and nothing is spent.
//
// Threads: the one that runs kernels; what others do is not looked at.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulation {

enum class Use { kRead, kWrite, kAtomic };

// Who uses memory now: a thread of a kernel.
struct User {
  std::uint32_t launch = 0;  // kernels so far, from 1
  std::uint32_t block = 0;   // of its grid
  std::uint32_t epoch = 0;   // barriers of the block so far
  std::uint16_t thread = 0;
  bool waited = true;  // for the kernel before
};

// From here on accesses are watched. Files that are built to tell of theirs call it
// before main.
void StartWatching();
bool Watching();

// The thread that goes on now; null: none does.
void SetUser(const User* user);

// Uses of [p, p + bytes) by the thread that runs. `from` is where in the program, for the
// message.
void OnUse(const void* p, std::size_t bytes, Use use, const void* from);

// An asynchronous copy to there begins, or is waited for by the thread that began it. In
// between nobody may look.
void OnCopyBegin(const void* p, std::size_t bytes, const void* from);
void OnCopyEnd(const void* p, std::size_t bytes);

// Kernels from the `first` on may still run when a later one starts that has not waited.
void SetOverlapped(std::uint32_t first);

// What was used of [p, p + bytes) is forgotten: it becomes other memory.
void ForgetUses(const void* p, std::size_t bytes);

}  // namespace emulation
