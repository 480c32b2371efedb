// Snapshots for the tests: one with every field set, one with none.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sessions/snapshot.h"

namespace goldfinch {

inline const std::string kSampleId = "0123456789abcdef0123456789abcdef";

inline Turn SampleTurn() {
  Turn turn;
  turn.max_tokens = 1000;
  turn.sampling = {.temperature = 0.7f,
                   .top_p = 0.9f,
                   .top_k = 40,
                   .min_p = 0.05f,
                   .repetition_penalty = 1.1f,
                   .frequency_penalty = -0.5f,
                   .presence_penalty = 0.25f,
                   .seed = 0xfedcba9876543210u,
                   .candidate = 3,
                   .min_tokens = 5,
                   .banned_before_min_tokens = {},  // follow from the stop tokens
                   .logit_bias = {{11, -1.5f}, {12, 2.0f}},
                   .num_logprobs = 2};
  turn.stop = {"end", std::string("\0x", 2), "y"};
  turn.stop_token_ids = {13, 14};
  turn.include_stop = true;
  turn.ignore_eos = true;
  turn.priority = -4;
  turn.num_generated = 2;
  turn.logprobs = {
      {.token = 2, .logprob = -0.5f, .top = {{2, -0.5f}, {5, -1.5f}}},
      {.token = 70000, .logprob = -3.0f, .top = {{6, -0.25f}}},
  };
  turn.end = Turn::End{.reason = FinishReason::kStop,
                       .match = {.kind = StopMatch::Kind::kStopString, .index = 1}};
  return turn;
}

inline std::shared_ptr<const PrefixImage> SampleImage() {
  static const auto* const bytes = new std::vector<std::byte>(9, std::byte{0xab});
  auto image = std::make_shared<PrefixImage>();
  image->length = 2;
  image->tokens = {1, 2};
  image->keys = std::span(*bytes).first(4);
  image->state = std::span(*bytes).subspan(4);
  return image;
}

inline Snapshot SampleSnapshot() {
  Snapshot snapshot;
  snapshot.model_fingerprint = "00ff00ff00ff00ff";
  snapshot.numerics_id = "cpu-avx2-1-f32";
  snapshot.tenant = "tenant";
  snapshot.session_id = kSampleId;
  snapshot.generation = 0x8000000000000001u;
  snapshot.tokens = {1, 2, 70000};
  snapshot.key_bytes_per_token = 2;
  snapshot.image = SampleImage();
  snapshot.turn = SampleTurn();
  return snapshot;
}

inline Snapshot EmptySnapshot() {
  Snapshot snapshot;
  snapshot.session_id = kSampleId;
  return snapshot;
}

inline std::string Encode(const Snapshot& snapshot, const SnapshotKey* key = nullptr) {
  return EncodeSnapshot(snapshot, key).Join();
}
inline absl::StatusOr<Snapshot> Decode(const std::string& bytes,
                                       const SnapshotKey* key = nullptr,
                                       const SnapshotLimits& limits = {}) {
  return DecodeSnapshot(std::make_shared<const std::string>(bytes), key, limits);
}

inline const SnapshotKey kSampleKey{std::string(32, 'k')};

}  // namespace goldfinch
