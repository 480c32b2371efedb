// What the files of a directory of parked sessions look like (docs/snapshot-format.md).
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "sessions/store.h"

namespace goldfinch {

// <id>.snapshot begins with one: what is known of the blob behind it.
struct SnapshotHeader {
  std::uint64_t generation = 0;
  std::uint64_t length = 0;    // of the blob
  std::int64_t stored_at = 0;  // seconds since 1970
  SnapshotInfo info;
  std::size_t header_bytes = 0;  // its own
};
inline constexpr std::size_t kMaxHeaderBytes = 4096;
inline constexpr std::size_t kMaxTenantName = 512;
std::string EncodeHeader(const SnapshotHeader& header);
// DATA_LOSS for what is none, FAILED_PRECONDITION for one of a later version.
// `file_bytes` is the size of the whole file, of which `begin` is the beginning.
absl::StatusOr<SnapshotHeader> DecodeHeader(std::string_view begin,
                                            std::uint64_t file_bytes);

// <id>.claim: who holds the session, and whose it is. Of one that was deleted, for some
// time, that it was.
struct ClaimFile {
  std::string owner;  // empty: nobody
  std::uint64_t epoch = 0;
  std::string tenant;
  // Seconds since 1970; then it has no owner.
  std::optional<std::int64_t> deleted_at = {};
};
// <owner>.owner: until when its claims are good, by the clock of the machine's uptime and
// by that of the world.
struct LeaseFile {
  std::string boot_id;
  std::int64_t uptime_until = 0;  // nanoseconds
  std::int64_t world_until = 0;   // nanoseconds since 1970
};
// totals: what the snapshots of each tenant take, but for one (directory_totals.h).
struct TotalsFile {
  std::string apart;                          // the id of that; empty: there is none
  std::map<std::string, std::int64_t> bytes;  // by tenant
};
inline constexpr std::size_t kMaxSmallFileBytes = 1024;
inline constexpr std::size_t kMaxTotalsBytes = std::size_t{64} << 20;
std::string EncodeClaim(const ClaimFile& claim);
std::string EncodeLease(const LeaseFile& lease);
std::string EncodeTotals(const TotalsFile& totals);
absl::StatusOr<ClaimFile> DecodeClaim(std::string_view bytes);
absl::StatusOr<LeaseFile> DecodeLease(std::string_view bytes);
absl::StatusOr<TotalsFile> DecodeTotals(std::string_view bytes);

}  // namespace goldfinch
