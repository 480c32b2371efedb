// What a parked session is, and how it is one self-describing blob of bytes.
//
// The format is in docs/snapshot-format.md. Same snapshot, same bytes. Decoding trusts
// nothing: no length is believed before it is compared with the bytes that are left, and
// nothing is allocated from one that was not.
//
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sampling.h"
#include "engine/token.h"
#include "sessions/snapshot_key.h"

namespace goldfinch {

inline constexpr std::uint32_t kSnapshotVersion = 1;

// What a generation that was broken off needs to go on with the very next token.
struct Interrupted {
  std::vector<TokenId> remaining_prompt;  // not fed yet
  std::int64_t max_tokens = 0;
  SamplingParams sampling;
  std::vector<std::string> stop;
  std::vector<TokenId> stop_token_ids;
  bool include_stop = false;
  bool ignore_eos = false;
  std::int64_t num_generated = 0;
  std::vector<TokenId> undelivered;  // generated, not yet with the client
  std::string partial_utf8;          // bytes of a character that is not complete
  std::string partial_stop;          // bytes held back: they may begin a stop string
  std::int32_t priority = 0;
};

struct Snapshot {
  std::string model_fingerprint;
  std::string numerics_id;
  std::string tenant;
  std::string session_id;        // 32 lowercase hex digits
  std::uint64_t generation = 0;  // raised with every park
  std::vector<TokenId> tokens;   // the whole history
  std::int64_t key_bytes_per_token = 0;
  std::vector<std::byte> keys;   // key_bytes_per_token for each of tokens
  std::vector<std::byte> state;  // recurrent and shift states, opaque
  std::optional<Interrupted> interrupted;
};

// Bounds of what a reader takes; beyond them is FAILED_PRECONDITION.
struct SnapshotLimits {
  std::size_t max_bytes = std::numeric_limits<std::size_t>::max();
  std::size_t max_tokens = std::numeric_limits<std::size_t>::max();
};

// Authenticated when there is a key; nullptr for none. The snapshot is one that decoding
// would take: keys of the size of tokens, a valid session id.
std::string EncodeSnapshot(const Snapshot& snapshot, const SnapshotKey* key);

// DATA_LOSS for bytes that are damaged or fail authentication, FAILED_PRECONDITION for
// intact ones that this build or configuration cannot take.
absl::StatusOr<Snapshot> DecodeSnapshot(std::string_view bytes, const SnapshotKey* key,
                                        const SnapshotLimits& limits);

// FAILED_PRECONDITION when the snapshot is of another model than `fingerprint`.
absl::Status CheckModel(const Snapshot& snapshot, std::string_view fingerprint);

// True for 32 lowercase hex digits.
bool IsSessionId(std::string_view id);

}  // namespace goldfinch
