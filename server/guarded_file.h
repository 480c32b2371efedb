// Reads a file that decides who gets in: whole, bounded, and refused when its permissions
// let those at it that it is meant to keep out.
//
// Threads: any.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace goldfinch {

enum class FileGuard {
  kNone,
  kNotWritableByAll,  // it says who may call
  kNotReadableByAll,  // it is a secret
};

// `what` begins the message of an error ("the tenants file"); the path is not told.
absl::StatusOr<std::string> ReadGuardedFile(const std::string& path, const char* what,
                                            std::size_t max_bytes, FileGuard guard);

}  // namespace goldfinch
