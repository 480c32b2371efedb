#include "sessions/snapshot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

// Every field is in the bytes once, so equal bytes are equal fields; the fields below are
// compared themselves, lest encoding and decoding forget the same one.
void ExpectRoundTrip(const Snapshot& snapshot, const SnapshotKey* key) {
  const std::string bytes = Encode(snapshot, key);
  const auto decoded = Decode(bytes, key, {});
  ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
  EXPECT_EQ(Encode(*decoded, key), bytes);
  EXPECT_EQ(decoded->model_fingerprint, snapshot.model_fingerprint);
  EXPECT_EQ(decoded->numerics_id, snapshot.numerics_id);
  EXPECT_EQ(decoded->tenant, snapshot.tenant);
  EXPECT_EQ(decoded->session_id, snapshot.session_id);
  EXPECT_EQ(decoded->generation, snapshot.generation);
  EXPECT_EQ(decoded->tokens, snapshot.tokens);
  EXPECT_EQ(decoded->key_bytes_per_token, snapshot.key_bytes_per_token);
  ASSERT_EQ(decoded->image != nullptr, snapshot.image != nullptr);
  EXPECT_EQ(decoded->turn.has_value(), snapshot.turn.has_value());
  if (snapshot.image == nullptr) return;
  EXPECT_EQ(decoded->image->length, snapshot.image->length);
  EXPECT_EQ(decoded->image->tokens, snapshot.image->tokens);
  EXPECT_TRUE(std::ranges::equal(decoded->image->keys, snapshot.image->keys));
  EXPECT_TRUE(std::ranges::equal(decoded->image->state, snapshot.image->state));
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
  Snapshot turn = EmptySnapshot();
  turn.turn.emplace();
  ExpectRoundTrip(turn, nullptr);
}

// As of a model without GOLD layers.
TEST(SnapshotTest, AModelMayKeepNoKeys) {
  Snapshot snapshot = SampleSnapshot();
  auto image = std::make_shared<PrefixImage>(*SampleImage());
  image->tokens.clear();
  image->keys = {};
  snapshot.key_bytes_per_token = 0;
  snapshot.image = image;
  ExpectRoundTrip(snapshot, nullptr);
}

TEST(SnapshotTest, TheLastTurnComesBack) {
  const Turn want = SampleTurn();
  const auto decoded = Decode(Encode(SampleSnapshot()));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const Turn& got = *decoded->turn;
  EXPECT_EQ(got.max_tokens, want.max_tokens);
  ExpectSame(got.sampling, want.sampling);
  EXPECT_EQ(got.stop, want.stop);
  EXPECT_EQ(got.stop_token_ids, want.stop_token_ids);
  EXPECT_EQ(got.include_stop, want.include_stop);
  EXPECT_EQ(got.ignore_eos, want.ignore_eos);
  EXPECT_EQ(got.priority, want.priority);
  EXPECT_EQ(got.num_generated, want.num_generated);
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
  for (std::size_t i = 0; i < got.logprobs.size(); ++i) {
    EXPECT_EQ(got.logprobs[i].token, want.logprobs[i].token);
    EXPECT_EQ(got.logprobs[i].logprob, want.logprobs[i].logprob);
    ASSERT_EQ(got.logprobs[i].top.size(), want.logprobs[i].top.size());
    for (std::size_t j = 0; j < got.logprobs[i].top.size(); ++j) {
      EXPECT_EQ(got.logprobs[i].top[j].token, want.logprobs[i].top[j].token);
      EXPECT_EQ(got.logprobs[i].top[j].logprob, want.logprobs[i].top[j].logprob);
    }
  }
  ASSERT_TRUE(got.end.has_value());
  EXPECT_EQ(got.end->reason, want.end->reason);
  EXPECT_EQ(got.end->match.kind, want.end->match.kind);
  EXPECT_EQ(got.end->match.index, want.end->match.index);
}

// What the image points to is the blob itself.
TEST(SnapshotTest, ADecodedImageKeepsItsBytes) {
  auto bytes = std::make_shared<const std::string>(Encode(SampleSnapshot()));
  const std::weak_ptr<const std::string> kept = bytes;
  auto decoded = DecodeSnapshot(std::move(bytes), nullptr, {});
  ASSERT_TRUE(decoded.ok());
  EXPECT_FALSE(kept.expired());
  decoded->image.reset();
  EXPECT_TRUE(kept.expired());
}

TEST(SnapshotTest, TheSameSnapshotIsTheSameBytes) {
  EXPECT_EQ(Encode(SampleSnapshot(), &kSampleKey), Encode(SampleSnapshot(), &kSampleKey));
}

TEST(SnapshotTest, KeysHaveToFitOnBothSides) {
  const SnapshotKey other{std::string(32, 'o')};
  const std::string open = Encode(SampleSnapshot(), nullptr);
  const std::string sealed = Encode(SampleSnapshot(), &kSampleKey);
  EXPECT_TRUE(absl::IsDataLoss(Decode(sealed, &other, {}).status()));
  EXPECT_TRUE(absl::IsDataLoss(Decode(open, &kSampleKey, {}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Decode(sealed, nullptr, {}).status()));
}

TEST(SnapshotTest, LimitsAreKept) {
  const std::string bytes = Encode(SampleSnapshot(), nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      Decode(bytes, nullptr, {.max_bytes = bytes.size() - 1}).status()));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(Decode(bytes, nullptr, {.max_tokens = 2}).status()));
  EXPECT_TRUE(Decode(bytes, nullptr, {.max_bytes = bytes.size(), .max_tokens = 3}).ok());
}

TEST(SnapshotTest, AnotherModelIsRefused) {
  EXPECT_TRUE(CheckModel(SampleSnapshot(), "00ff00ff00ff00ff").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckModel(SampleSnapshot(), "another")));
}

TEST(SnapshotKeyTest, AKeyFileHas32To4096Bytes) {
  std::string folder = ::testing::TempDir() + "/snapshot_key_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/key";
  for (const std::size_t size : {0u, 31u, 32u, 4096u, 4097u}) {
    std::ofstream(path, std::ios::binary) << std::string(size, 'x');
    const auto key = ReadSnapshotKey(path);
    EXPECT_EQ(key.ok(), size >= 32 && size <= 4096) << size;
    if (key.ok()) {
      EXPECT_EQ(key->secret.size(), size);
    }
  }
  EXPECT_FALSE(ReadSnapshotKey(path + ".missing").ok());
  std::filesystem::remove_all(folder);
}

TEST(SnapshotTest, ATurnHasALogprobForEachTokenOrForNone) {
  Snapshot snapshot = SampleSnapshot();
  snapshot.turn->logprobs.clear();
  EXPECT_TRUE(absl::IsDataLoss(Decode(Encode(snapshot)).status()));
  snapshot.turn->sampling.num_logprobs = -1;
  EXPECT_TRUE(Decode(Encode(snapshot)).ok());
  snapshot.turn = SampleTurn();
  snapshot.turn->sampling.num_logprobs = -1;
  EXPECT_TRUE(absl::IsDataLoss(Decode(Encode(snapshot)).status()));
}

}  // namespace
}  // namespace goldfinch
