// CHECK: what only a bug of ours can make false ends the process with the place and
// the condition. Whatever a client, a file or a driver can cause is an absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace goldfinch::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, condition);
  std::fflush(stderr);
  std::abort();
}

}  // namespace goldfinch::internal

#define GOLDFINCH_CHECK(condition) \
  (static_cast<bool>(condition)    \
       ? static_cast<void>(0)      \
       : ::goldfinch::internal::CheckFailed(__FILE__, __LINE__, #condition))
