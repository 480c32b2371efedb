// Snapshots for the tests: one with every field set, one with none.
#pragma once

#include <string>

#include "sessions/snapshot.h"

namespace goldfinch {

inline const std::string kSampleId = "0123456789abcdef0123456789abcdef";

inline Interrupted SampleInterrupted() {
  Interrupted interrupted;
  interrupted.remaining_prompt = {7, 8};
  interrupted.max_tokens = 1000;
  interrupted.sampling = {.temperature = 0.7f,
                          .top_p = 0.9f,
                          .top_k = 40,
                          .min_p = 0.05f,
                          .repetition_penalty = 1.1f,
                          .frequency_penalty = -0.5f,
                          .presence_penalty = 0.25f,
                          .seed = 0xfedcba9876543210u,
                          .candidate = 3,
                          .min_tokens = 5,
                          .banned_before_min_tokens = {0, 9},
                          .logit_bias = {{11, -1.5f}, {12, 2.0f}},
                          .num_logprobs = 2};
  interrupted.stop = {"end", std::string("\0x", 2), ""};
  interrupted.stop_token_ids = {13};
  interrupted.include_stop = true;
  interrupted.ignore_eos = true;
  interrupted.num_generated = 17;
  interrupted.undelivered = {21, 22, 23};
  interrupted.partial_utf8 = "\xe2\x82";
  interrupted.partial_stop = "en";
  interrupted.priority = -4;
  return interrupted;
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
  snapshot.keys = std::vector<std::byte>(6, std::byte{0xab});
  snapshot.state = std::vector<std::byte>(5, std::byte{0xcd});
  snapshot.interrupted = SampleInterrupted();
  return snapshot;
}

inline Snapshot EmptySnapshot() {
  Snapshot snapshot;
  snapshot.session_id = kSampleId;
  return snapshot;
}

inline const SnapshotKey kSampleKey{std::string(32, 'k')};

}  // namespace goldfinch
