// How much memory this process may take, and how much it takes.
//
// What it may take is the machine's, or less where a control group (a container) says so:
// who takes more is killed. What it takes is memory that only this process has; pages of
// files, the model's among them, can be dropped and read again, and do not count.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace goldfinch {

// The least limit of the control groups of this process, of version 1 or 2, as found
// below `root` ("" but in tests). None when there is no limit or nothing can be read.
std::optional<std::int64_t> ControlGroupLimit(const std::string& root = "");

// In bytes: of the machine and of the control groups, the lesser one.
std::int64_t MemoryLimit();

// In bytes. 0 when it cannot be read.
std::int64_t MemoryTaken();

// Returns to the system what the allocator holds and nobody uses. Takes milliseconds for
// each GB of it.
void GiveBackMemory();

}  // namespace goldfinch
