// How the emulated device ends a test that does what a real one would not forgive.
#pragma once

namespace emulation {

// Says `what`, with the kernel that runs, if one does, and aborts.
[[noreturn]] void Die(const char* what);

}  // namespace emulation
