// What code built with -fsanitize=thread calls. These are the names that gcc gives them;
// the sanitizer's own library is not linked, but in a build that is made with it as a
// whole.
#if !defined(__SANITIZE_THREAD__)

#include <cstddef>

#include "tests/emulation/race_check.h"

// NOLINTBEGIN
#define GOLDFINCH_HOOK(name, bytes, use)                                          \
  extern "C" void __tsan_##name(void* p) {                                        \
    emulation::OnUse(p, bytes, emulation::Use::use, __builtin_return_address(0)); \
  }
// An access that need not be aligned looks like any other here.
#define GOLDFINCH_HOOKS(bytes)                        \
  GOLDFINCH_HOOK(read##bytes, bytes, kRead)           \
  GOLDFINCH_HOOK(write##bytes, bytes, kWrite)         \
  GOLDFINCH_HOOK(unaligned_read##bytes, bytes, kRead) \
  GOLDFINCH_HOOK(unaligned_write##bytes, bytes, kWrite)

GOLDFINCH_HOOKS(1)
GOLDFINCH_HOOKS(2)
GOLDFINCH_HOOKS(4)
GOLDFINCH_HOOKS(8)
GOLDFINCH_HOOKS(16)

extern "C" void __tsan_read_range(void* p, std::size_t bytes) {
  emulation::OnUse(p, bytes, emulation::Use::kRead, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* p, std::size_t bytes) {
  emulation::OnUse(p, bytes, emulation::Use::kWrite, __builtin_return_address(0));
}
extern "C" void __tsan_init() { emulation::StartWatching(); }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit(void*) {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
// NOLINTEND

#endif  // __SANITIZE_THREAD__
