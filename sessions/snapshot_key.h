// The secret that authenticates snapshots, and HMAC-SHA256 with it.
//
// Any thread.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace goldfinch {

inline constexpr std::size_t kMacBytes = 32;
using Mac = std::array<unsigned char, kMacBytes>;

struct SnapshotKey {
  std::string secret;  // 32 to 4096 bytes
};

// The file's bytes as they are, a final line break included.
absl::StatusOr<SnapshotKey> ReadSnapshotKey(const std::string& path);

// Of the pieces, one behind the other.
Mac ComputeMac(const SnapshotKey& key, std::span<const std::string_view> pieces);

// In a time that does not depend on where they differ.
bool SameMac(const Mac& mac, std::string_view other);

}  // namespace goldfinch
