// Which files there are in a directory of parked sessions, and the header of a snapshot
// among them (docs/snapshot-format.md).
//
// Threads: any.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/file_descriptor.h"
#include "sessions/directory_format.h"

namespace goldfinch {

inline constexpr std::string_view kSnapshotSuffix = ".snapshot";
inline constexpr std::string_view kClaimSuffix = ".claim";
inline constexpr std::string_view kOwnerSuffix = ".owner";
inline constexpr std::string_view kSpareSuffix = ".spare";
inline constexpr std::string_view kTemporarySuffix = ".tmp";
inline constexpr const char* kLockName = "lock";
inline constexpr const char* kTotalsName = "totals";

std::string FileName(std::string_view stem, std::string_view suffix);
// The id before `suffix`, or empty.
std::string StemOf(std::string_view name, std::string_view suffix);

// NOT_FOUND when there is none, else as DecodeHeader. `file` becomes the open file if it
// is given; where it is read next is for the caller to say.
absl::StatusOr<SnapshotHeader> ReadSnapshotHeader(int directory, const std::string& id,
                                                  FileDescriptor* file = nullptr);

}  // namespace goldfinch
