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
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/sampling.h"
#include "engine/token.h"
#include "scheduler/request.h"
#include "sessions/session_id.h"
#include "sessions/snapshot_key.h"

namespace goldfinch {

inline constexpr std::uint32_t kSnapshotVersion = 1;

// A session's last generation: enough to continue it with the very next token if it was
// broken off, or to tell a client again what it did not receive. The tokens themselves
// are the end of the session's history; text, partial characters and partial stop
// strings are functions of them.
struct Turn {
  std::int64_t max_tokens = 0;
  SamplingParams sampling;
  std::vector<std::string> stop;
  std::vector<TokenId> stop_token_ids;  // sorted
  bool include_stop = false;
  bool ignore_eos = false;
  std::int32_t priority = 0;
  // Of all its tokens, those interrupted and resumed included; the last so many of the
  // session's history.
  std::int64_t num_generated = 0;
  // One a generated token when sampling.num_logprobs >= 0, else empty.
  std::vector<SampledToken> logprobs;
  // How it ended; none while it can be continued.
  struct End {
    FinishReason reason = FinishReason::kStop;
    StopMatch match;
  };
  std::optional<End> end;

  // Of all that has no fixed size; about.
  std::int64_t host_bytes() const;
};

struct Snapshot {
  std::string model_fingerprint;
  std::string numerics_id;
  std::string tenant;
  std::string session_id;                // 32 lowercase hex digits
  std::uint64_t generation = 0;          // raised with every park
  std::vector<TokenId> tokens;           // the whole history
  std::int64_t key_bytes_per_token = 0;  // 0: the model keeps none
  // Of the first image->length tokens; null when nothing has run.
  std::shared_ptr<const PrefixImage> image;
  std::optional<Turn> turn;
};

// A snapshot as bytes: pieces that belong one behind the other, of which the large ones
// are those of the image, uncopied.
class SnapshotBytes {
 public:
  std::span<const std::string_view> pieces() const { return pieces_; }
  std::size_t size() const;
  std::string Join() const;

 private:
  friend SnapshotBytes EncodeSnapshot(const Snapshot& snapshot, const SnapshotKey* key);

  std::deque<std::string> frames_;  // do not move
  std::shared_ptr<const PrefixImage> image_;
  std::vector<std::string_view> pieces_;
};

// Bounds of what a reader takes; beyond them is FAILED_PRECONDITION.
struct SnapshotLimits {
  std::size_t max_bytes = std::numeric_limits<std::size_t>::max();
  std::size_t max_tokens = std::numeric_limits<std::size_t>::max();
};

// Authenticated when there is a key; nullptr for none. The snapshot is one that decoding
// would take: keys of the size of the image's tokens, a valid session id.
SnapshotBytes EncodeSnapshot(const Snapshot& snapshot, const SnapshotKey* key);

// DATA_LOSS for bytes that are damaged or fail authentication, FAILED_PRECONDITION for
// intact ones that this build or configuration cannot take. The snapshot's image points
// into the bytes and keeps them.
absl::StatusOr<Snapshot> DecodeSnapshot(std::shared_ptr<const std::string> bytes,
                                        const SnapshotKey* key,
                                        const SnapshotLimits& limits);

// FAILED_PRECONDITION when the snapshot is of another model than `fingerprint`.
absl::Status CheckModel(const Snapshot& snapshot, std::string_view fingerprint);

}  // namespace goldfinch
