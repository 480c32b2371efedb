#include "sessions/snapshot.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

// Every field is in the bytes once, so equal bytes are equal fields; the fields below are
// compared themselves, lest encoding and decoding forget the same one.
void ExpectRoundTrip(const Snapshot& snapshot, const SnapshotKey* key) {
  const std::string bytes = EncodeSnapshot(snapshot, key);
  const auto decoded = DecodeSnapshot(bytes, key, {});
  ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
  EXPECT_EQ(EncodeSnapshot(*decoded, key), bytes);
  EXPECT_EQ(decoded->model_fingerprint, snapshot.model_fingerprint);
  EXPECT_EQ(decoded->numerics_id, snapshot.numerics_id);
  EXPECT_EQ(decoded->tenant, snapshot.tenant);
  EXPECT_EQ(decoded->session_id, snapshot.session_id);
  EXPECT_EQ(decoded->generation, snapshot.generation);
  EXPECT_EQ(decoded->tokens, snapshot.tokens);
  EXPECT_EQ(decoded->key_bytes_per_token, snapshot.key_bytes_per_token);
  EXPECT_EQ(decoded->keys, snapshot.keys);
  EXPECT_EQ(decoded->state, snapshot.state);
  EXPECT_EQ(decoded->interrupted.has_value(), snapshot.interrupted.has_value());
}

void ExpectSame(const SamplingParams& a, const SamplingParams& b) {
  EXPECT_EQ(a.temperature, b.temperature);
  EXPECT_EQ(a.top_p, b.top_p);
  EXPECT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(a.min_p, b.min_p);
  EXPECT_EQ(a.repetition_penalty, b.repetition_penalty);
  EXPECT_EQ(a.frequency_penalty, b.frequency_penalty);
  EXPECT_EQ(a.presence_penalty, b.presence_penalty);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.candidate, b.candidate);
  EXPECT_EQ(a.min_tokens, b.min_tokens);
  EXPECT_EQ(a.banned_before_min_tokens, b.banned_before_min_tokens);
  EXPECT_EQ(a.logit_bias, b.logit_bias);
  EXPECT_EQ(a.num_logprobs, b.num_logprobs);
}

TEST(SnapshotTest, EveryFieldComesBack) {
  ExpectRoundTrip(SampleSnapshot(), nullptr);
  ExpectRoundTrip(SampleSnapshot(), &kSampleKey);
}

TEST(SnapshotTest, EmptyFieldsComeBackEmpty) {
  ExpectRoundTrip(EmptySnapshot(), nullptr);
  Snapshot interrupted = EmptySnapshot();
  interrupted.interrupted.emplace();
  ExpectRoundTrip(interrupted, nullptr);
}

TEST(SnapshotTest, AnInterruptedGenerationComesBack) {
  const Interrupted want = SampleInterrupted();
  const auto decoded =
      DecodeSnapshot(EncodeSnapshot(SampleSnapshot(), nullptr), nullptr, {});
  ASSERT_TRUE(decoded.ok());
  const Interrupted& got = *decoded->interrupted;
  EXPECT_EQ(got.remaining_prompt, want.remaining_prompt);
  EXPECT_EQ(got.max_tokens, want.max_tokens);
  ExpectSame(got.sampling, want.sampling);
  EXPECT_EQ(got.stop, want.stop);
  EXPECT_EQ(got.stop_token_ids, want.stop_token_ids);
  EXPECT_EQ(got.include_stop, want.include_stop);
  EXPECT_EQ(got.ignore_eos, want.ignore_eos);
  EXPECT_EQ(got.num_generated, want.num_generated);
  EXPECT_EQ(got.undelivered, want.undelivered);
  EXPECT_EQ(got.partial_utf8, want.partial_utf8);
  EXPECT_EQ(got.partial_stop, want.partial_stop);
  EXPECT_EQ(got.priority, want.priority);
}

TEST(SnapshotTest, TheSameSnapshotIsTheSameBytes) {
  EXPECT_EQ(EncodeSnapshot(SampleSnapshot(), &kSampleKey),
            EncodeSnapshot(SampleSnapshot(), &kSampleKey));
}

TEST(SnapshotTest, KeysHaveToFitOnBothSides) {
  const SnapshotKey other{std::string(32, 'o')};
  const std::string open = EncodeSnapshot(SampleSnapshot(), nullptr);
  const std::string sealed = EncodeSnapshot(SampleSnapshot(), &kSampleKey);
  EXPECT_TRUE(absl::IsDataLoss(DecodeSnapshot(sealed, &other, {}).status()));
  EXPECT_TRUE(absl::IsDataLoss(DecodeSnapshot(open, &kSampleKey, {}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(DecodeSnapshot(sealed, nullptr, {}).status()));
}

TEST(SnapshotTest, LimitsAreKept) {
  const std::string bytes = EncodeSnapshot(SampleSnapshot(), nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      DecodeSnapshot(bytes, nullptr, {.max_bytes = bytes.size() - 1}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      DecodeSnapshot(bytes, nullptr, {.max_tokens = 2}).status()));
  EXPECT_TRUE(
      DecodeSnapshot(bytes, nullptr, {.max_bytes = bytes.size(), .max_tokens = 3}).ok());
}

TEST(SnapshotTest, AnotherModelIsRefused) {
  EXPECT_TRUE(CheckModel(SampleSnapshot(), "00ff00ff00ff00ff").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckModel(SampleSnapshot(), "another")));
}

TEST(SnapshotKeyTest, AKeyFileHas32To4096Bytes) {
  const std::string path = ::testing::TempDir() + "/snapshot_key_test";
  for (const std::size_t size : {0u, 31u, 32u, 4096u, 4097u}) {
    std::ofstream(path, std::ios::binary) << std::string(size, 'x');
    const auto key = ReadSnapshotKey(path);
    EXPECT_EQ(key.ok(), size >= 32 && size <= 4096) << size;
    if (key.ok()) {
      EXPECT_EQ(key->secret.size(), size);
    }
  }
  EXPECT_FALSE(ReadSnapshotKey(path + ".missing").ok());
}

}  // namespace
}  // namespace goldfinch
