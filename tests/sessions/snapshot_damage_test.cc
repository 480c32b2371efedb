#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <vector>

#include "sessions/bytes.h"
#include "sessions/snapshot.h"
#include "tests/sessions/samples.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace goldfinch {
namespace {

std::string Int64(std::uint64_t value) {
  ByteWriter out;
  out.Int(value);
  return out.Take();
}

struct Section {
  std::uint32_t tag = 0;
  std::string payload;
  std::optional<std::uint64_t> length = {};  // as told; else the true one
};

// A blob whose checksums are right, whatever is in it.
std::string Blob(const std::vector<Section>& sections, std::uint32_t version = 1) {
  ByteWriter head;
  head.Raw("GFSNAP\r\n");
  head.Int(version);
  head.Int(std::uint32_t{0});
  std::uint64_t sum = XXH3_64bits(head.bytes().data(), head.bytes().size());
  std::string blob = head.bytes() + Int64(sum);
  for (const Section& section : sections) {
    ByteWriter out;
    out.Int(section.tag);
    out.Int(section.length.value_or(section.payload.size()));
    out.Raw(section.payload);
    sum = XXH3_64bits_withSeed(out.bytes().data(), out.bytes().size(), sum);
    blob += out.bytes() + Int64(sum);
  }
  return blob;
}

const Section kIdentity{
    1, Int64(0) + Int64(0) + Int64(0) + Int64(32) + kSampleId + Int64(1)};
const Section kTokens{2, Int64(0) + Int64(0)};
const Section kKeys{3, Int64(0)};
const Section kState{4, ""};
const Section kEnd{6, ""};
const std::string kHuge = Int64(0xffffffffffffffffu);

absl::StatusCode Code(const std::string& blob) { return Decode(blob).status().code(); }

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kFailedPrecondition = absl::StatusCode::kFailedPrecondition;

void ExpectEveryDamageIsFound(const SnapshotKey* key) {
  const std::string whole = Encode(SampleSnapshot(), key);
  const bool all_bits = std::getenv("GOLDFINCH_LONG_TESTS") != nullptr;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (std::size_t bit = all_bits ? 0 : i % 8; bit < (all_bits ? 8 : i % 8 + 1);
         ++bit) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      ASSERT_TRUE(absl::IsDataLoss(Decode(flipped, key).status())) << i;
    }
    ASSERT_TRUE(absl::IsDataLoss(Decode(whole.substr(0, i), key).status()));
  }
  ASSERT_TRUE(absl::IsDataLoss(Decode(whole + '\0', key).status()));
}

TEST(SnapshotDamageTest, EveryFlipAndTruncationIsDataLoss) {
  ExpectEveryDamageIsFound(nullptr);
}

TEST(SnapshotDamageTest, EveryFlipAndTruncationIsDataLossWithAKey) {
  ExpectEveryDamageIsFound(&kSampleKey);
}

// Sections of one snapshot behind those of another: each is intact, the chain is not.
TEST(SnapshotDamageTest, SectionsOfTwoSnapshotsDoNotMix) {
  const std::string one = Encode(SampleSnapshot());
  Snapshot other = SampleSnapshot();
  other.generation ^= 1;  // of the same length
  const std::string two = Encode(other);
  ASSERT_EQ(one.size(), two.size());
  for (std::size_t i = 1; i < one.size(); ++i) {
    const std::string mixed = one.substr(0, i) + two.substr(i);
    if (mixed == one || mixed == two) continue;
    ASSERT_TRUE(absl::IsDataLoss(Decode(mixed).status())) << i;
  }
}

TEST(SnapshotDamageTest, AnIntactBlobOfAnotherVersionIsFailedPrecondition) {
  const std::vector<Section> sections = {kIdentity, kTokens, kKeys, kState, kEnd};
  EXPECT_EQ(Code(Blob(sections)), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Blob(sections, 2)), kFailedPrecondition);
}

TEST(SnapshotDamageTest, SectionsAreAllThereOnceAndKnown) {
  EXPECT_EQ(Code(Blob({kIdentity, kTokens, kKeys, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, kTokens, kTokens, kKeys, kState, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, kTokens, kKeys, kState})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, kTokens, kKeys, kState, kEnd, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, {77, ""}, kEnd})), kFailedPrecondition);
}

TEST(SnapshotDamageTest, HostileLengthsAreDataLoss) {
  EXPECT_EQ(Code(Blob({{1, "", 0xffffffffffffffffu}})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, {2, Int64(0) + kHuge}})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, {2, Int64(0) + Int64(0x4000000000000000u)}})),
            kDataLoss);
  EXPECT_EQ(Code(Blob({{1, kHuge}})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, kTokens, kKeys, kState, {5, kHuge}, kEnd})), kDataLoss);
}

TEST(SnapshotDamageTest, TokensAndKeysThatContradictAreDataLoss) {
  const Section one{2, Int64(1) + Int64(1) + std::string(4, '\0')};
  const Section negative{2, Int64(1) + Int64(1) + std::string(4, '\xff')};
  const Section too_long{2, Int64(2) + Int64(1) + std::string(4, '\0')};
  const Section below_zero{2, kHuge + Int64(1) + std::string(4, '\0')};
  const Section key{3, Int64(2) + "ab"};
  EXPECT_EQ(Code(Blob({kIdentity, one, key, kState, kEnd})), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Blob({kIdentity, negative, key, kState, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, too_long, key, kState, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, below_zero, key, kState, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, kTokens, key, kState, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, one, {3, kHuge}, kState, kEnd})), kDataLoss);
  EXPECT_EQ(Code(Blob({kIdentity, kTokens, kKeys, {4, "state"}, kEnd})), kDataLoss);
}

TEST(SnapshotDamageTest, ATurnThatContradictsTheHistoryIsDataLoss) {
  const auto refused = [](const std::function<void(Turn&)>& spoil) {
    Snapshot snapshot = SampleSnapshot();
    spoil(*snapshot.turn);
    EXPECT_EQ(Code(Encode(snapshot)), kDataLoss);
  };
  refused([](Turn& turn) { turn.num_generated = 4; });
  refused([](Turn& turn) {
    turn.num_generated = 3;  // all there is, and no prompt
    turn.sampling.num_logprobs = -1;
    turn.logprobs.clear();
  });
  refused([](Turn& turn) { turn.num_generated = -1; });
  refused([](Turn& turn) { turn.max_tokens = -1; });
  refused([](Turn& turn) { turn.logprobs.pop_back(); });
  refused([](Turn& turn) { turn.logprobs[0].token = 1; });
  refused([](Turn& turn) { turn.logprobs[0].top.resize(21); });
  refused([](Turn& turn) { turn.end->match.index = 3; });
  refused([](Turn& turn) { turn.stop_token_ids = {14, 13}; });
  refused([](Turn& turn) { turn.sampling.temperature = NAN; });
  refused([](Turn& turn) { turn.sampling.logit_bias[0].first = -1; });
}

// Whoever asked for such a generation was refused.
TEST(SnapshotDamageTest, ATurnBeyondTheContractIsDataLoss) {
  const auto code = [](const std::function<void(Turn&)>& change) {
    Snapshot snapshot = SampleSnapshot();
    change(*snapshot.turn);
    return Code(Encode(snapshot));
  };
  constexpr auto kOk = absl::StatusCode::kOk;
  const std::string longest(256, 'x');
  EXPECT_EQ(code([&](Turn& turn) { turn.stop.assign(16, longest); }), kOk);
  EXPECT_EQ(code([](Turn& turn) { turn.stop.assign(17, "x"); }), kDataLoss);
  EXPECT_EQ(code([&](Turn& turn) { turn.stop[0] = longest + "x"; }), kDataLoss);
  EXPECT_EQ(code([](Turn& turn) { turn.stop[0] = ""; }), kDataLoss);
  EXPECT_EQ(code([](Turn& turn) { turn.stop.assign(100'000, ""); }), kDataLoss);
  EXPECT_EQ(code([](Turn& turn) { turn.stop_token_ids.assign(64, 7); }), kOk);
  EXPECT_EQ(code([](Turn& turn) { turn.stop_token_ids.assign(65, 7); }), kDataLoss);
  const auto biases = [](std::size_t count) {
    return [count](Turn& turn) { turn.sampling.logit_bias.assign(count, {1, 2.0f}); };
  };
  EXPECT_EQ(code(biases(1024)), kOk);
  EXPECT_EQ(code(biases(1025)), kDataLoss);
  const auto logprobs = [](std::int32_t count) {
    return [count](Turn& turn) { turn.sampling.num_logprobs = count; };
  };
  EXPECT_EQ(code(logprobs(20)), kOk);
  EXPECT_EQ(code(logprobs(21)), kDataLoss);
  EXPECT_EQ(code(logprobs(INT32_MAX)), kDataLoss);
  EXPECT_EQ(code(logprobs(-2)), kDataLoss);
  EXPECT_EQ(code(logprobs(1)), kDataLoss) << "more of them than were asked for";
  EXPECT_EQ(code([](Turn& turn) { turn.sampling.banned_before_min_tokens = {1}; }),
            kDataLoss);
}

TEST(SnapshotDamageTest, WhatATurnTakesIsCounted) {
  Turn turn;
  EXPECT_EQ(turn.host_bytes(), 0);
  const auto grows = [&turn](const std::function<void()>& change, std::int64_t least) {
    const std::int64_t before = turn.host_bytes();
    change();
    EXPECT_GE(turn.host_bytes(), before + least);
    EXPECT_LE(turn.host_bytes(), before + 2 * least + 1000);
  };
  grows([&] { turn.stop.assign(16, std::string(256, 'x')); }, 16 * 256);
  grows([&] { turn.stop_token_ids.assign(64, 7); }, 64 * 4);
  grows([&] { turn.sampling.logit_bias.assign(1024, {1, 2.0f}); }, 1024 * 8);
  turn.sampling.num_logprobs = 20;
  grows([&] { turn.logprobs.resize(1000); }, 1000 * 20 * 8);
}

}  // namespace
}  // namespace goldfinch
