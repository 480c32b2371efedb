#include "sessions/directory_format.h"

#include "sessions/bytes.h"
#include "sessions/checksum.h"

namespace goldfinch {
namespace {

constexpr std::string_view kHeaderMagic("GFSTORE", 7);  // and a digit, the version
constexpr char kHeaderVersion = '2';
constexpr char kHeaderBeforeTurns = '1';  // nothing of the last generation
constexpr std::string_view kClaimMagic("GFCLAIM2", 8);
constexpr std::string_view kDeletedMagic("GFGONE01", 8);
constexpr std::string_view kLeaseMagic("GFLEASE1", 8);
constexpr std::string_view kTotalsMagic("GFTOTAL1", 8);

std::string Sealed(ByteWriter out) {
  const std::uint64_t sum = Checksum(out.bytes(), {}, 0);
  out.Int(sum);
  return out.Take();
}

// What is between magic and checksum, if both are right.
absl::StatusOr<std::string_view> Unsealed(std::string_view bytes,
                                          std::string_view magic) {
  constexpr std::size_t kSum = sizeof(std::uint64_t);
  if (bytes.size() < magic.size() + kSum || !bytes.starts_with(magic)) {
    return absl::DataLossError("a file of the session directory is damaged");
  }
  const std::string_view summed = bytes.substr(0, bytes.size() - kSum);
  ByteReader sum(bytes.substr(summed.size()));
  if (sum.Int<std::uint64_t>() != Checksum(summed, {}, 0)) {
    return absl::DataLossError("a file of the session directory is damaged");
  }
  return summed.substr(magic.size());
}

absl::Status Damaged() { return absl::DataLossError("a stored snapshot is damaged"); }

}  // namespace

// The size comes first, so that a reader knows where the checksum is.
std::string EncodeHeader(const SnapshotHeader& header) {
  ByteWriter fields;
  fields.Int(header.generation);
  fields.Int(header.length);
  fields.Int(header.stored_at);
  fields.Int(header.info.num_tokens);
  fields.String(header.info.tenant);
  fields.Int(header.info.num_generated);
  fields.Bool(header.info.interrupted);
  ByteWriter out;
  out.Raw(kHeaderMagic);
  out.Raw({&kHeaderVersion, 1});
  out.Int(static_cast<std::uint32_t>(kHeaderMagic.size() + 1 + sizeof(std::uint32_t) +
                                     fields.bytes().size() + sizeof(std::uint64_t)));
  out.Raw(fields.bytes());
  return Sealed(std::move(out));
}

absl::StatusOr<SnapshotHeader> DecodeHeader(std::string_view begin,
                                            std::uint64_t file_bytes) {
  ByteReader size(begin);
  size.Raw(kHeaderMagic.size() + 1);
  const auto header_bytes = size.Int<std::uint32_t>();
  if (!size.ok() || header_bytes > begin.size()) return Damaged();
  const auto fields = Unsealed(begin.substr(0, header_bytes), kHeaderMagic);
  if (!fields.ok()) return Damaged();
  ByteReader in(*fields);
  const char version = static_cast<char>(in.Int<std::uint8_t>());
  if (version != kHeaderVersion && version != kHeaderBeforeTurns) {
    return absl::FailedPreconditionError(
        "a stored snapshot was written by another version of the server");
  }
  SnapshotHeader header;
  header.header_bytes = in.Int<std::uint32_t>();
  header.generation = in.Int<std::uint64_t>();
  header.length = in.Int<std::uint64_t>();
  header.stored_at = in.Int<std::int64_t>();
  header.info.num_tokens = in.Int<std::int64_t>();
  header.info.tenant = in.String();
  if (version != kHeaderBeforeTurns) {
    header.info.num_generated = in.Int<std::int64_t>();
    header.info.interrupted = in.Bool();
  }
  if (!in.ok() || in.left() != 0 || file_bytes < header.header_bytes ||
      header.length != file_bytes - header.header_bytes) {
    return Damaged();
  }
  return header;
}

std::string EncodeClaim(const ClaimFile& claim) {
  ByteWriter out;
  if (claim.deleted_at.has_value()) {
    out.Raw(kDeletedMagic);
    out.Int(*claim.deleted_at);
    out.Int(claim.epoch);
    out.String(claim.tenant);
    return Sealed(std::move(out));
  }
  out.Raw(kClaimMagic);
  out.String(claim.owner);
  out.Int(claim.epoch);
  out.String(claim.tenant);
  return Sealed(std::move(out));
}

std::string EncodeLease(const LeaseFile& lease) {
  ByteWriter out;
  out.Raw(kLeaseMagic);
  out.String(lease.boot_id);
  out.Int(lease.uptime_until);
  out.Int(lease.world_until);
  return Sealed(std::move(out));
}

std::string EncodeTotals(const TotalsFile& totals) {
  ByteWriter out;
  out.Raw(kTotalsMagic);
  out.String(totals.apart);
  out.Int(std::uint64_t{totals.bytes.size()});
  for (const auto& [tenant, bytes] : totals.bytes) {
    out.String(tenant);
    out.Int(bytes);
  }
  return Sealed(std::move(out));
}

absl::StatusOr<ClaimFile> DecodeClaim(std::string_view bytes) {
  const bool deleted = bytes.starts_with(kDeletedMagic);
  const auto fields = Unsealed(bytes, deleted ? kDeletedMagic : kClaimMagic);
  if (!fields.ok()) return fields.status();
  ByteReader in(*fields);
  ClaimFile claim;
  if (deleted) {
    claim.deleted_at = in.Int<std::int64_t>();
  } else {
    claim.owner = in.String();
  }
  claim.epoch = in.Int<std::uint64_t>();
  claim.tenant = in.String();
  if (!in.ok() || in.left() != 0) return Damaged();
  return claim;
}

absl::StatusOr<LeaseFile> DecodeLease(std::string_view bytes) {
  const auto fields = Unsealed(bytes, kLeaseMagic);
  if (!fields.ok()) return fields.status();
  ByteReader in(*fields);
  LeaseFile lease;
  lease.boot_id = in.String();
  lease.uptime_until = in.Int<std::int64_t>();
  lease.world_until = in.Int<std::int64_t>();
  if (!in.ok() || in.left() != 0) return Damaged();
  return lease;
}

absl::StatusOr<TotalsFile> DecodeTotals(std::string_view bytes) {
  const auto fields = Unsealed(bytes, kTotalsMagic);
  if (!fields.ok()) return fields.status();
  ByteReader in(*fields);
  TotalsFile totals;
  totals.apart = in.String();
  const std::uint64_t count = in.Count(2 * sizeof(std::uint64_t));
  for (std::uint64_t i = 0; i < count; ++i) {
    std::string tenant = in.String();
    totals.bytes[std::move(tenant)] = in.Int<std::int64_t>();
  }
  if (!in.ok() || in.left() != 0) return Damaged();
  return totals;
}

}  // namespace goldfinch
