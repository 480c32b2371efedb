#include <gtest/gtest.h>

#include <cstdlib>

#include "sessions/bytes.h"
#include "sessions/snapshot.h"
#include "tests/sessions/samples.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace goldfinch {
namespace {

std::string Sum(const std::string& bytes) {
  ByteWriter out;
  out.Int(std::uint64_t{XXH3_64bits(bytes.data(), bytes.size())});
  return out.Take();
}

std::string Int64(std::uint64_t value) {
  ByteWriter out;
  out.Int(value);
  return out.Take();
}

std::string Section(std::uint32_t tag, const std::string& payload, std::uint64_t length) {
  ByteWriter out;
  out.Int(tag);
  out.Int(length);
  out.Raw(payload);
  return out.bytes() + Sum(out.bytes());
}

std::string Section(std::uint32_t tag, const std::string& payload) {
  return Section(tag, payload, payload.size());
}

// A blob whose checksums are right, whatever is in it.
std::string Blob(const std::string& sections, std::uint32_t version = 1) {
  ByteWriter out;
  out.Raw("GFSNAP\r\n");
  out.Int(version);
  out.Int(std::uint32_t{0});
  out.Raw(sections);
  return out.bytes() + Sum(out.bytes());
}

const std::string kIdentity =
    Section(1, Int64(0) + Int64(0) + Int64(0) + Int64(32) + kSampleId + Int64(1));
const std::string kTokens = Section(2, Int64(0));
const std::string kKeys = Section(3, Int64(0));
const std::string kState = Section(4, "");
const std::string kEnd = Section(6, "");
const std::string kHuge = Int64(0xffffffffffffffffu);

absl::StatusCode Code(const std::string& blob) {
  return DecodeSnapshot(blob, nullptr, {}).status().code();
}

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kFailedPrecondition = absl::StatusCode::kFailedPrecondition;

void ExpectEveryDamageIsFound(const SnapshotKey* key) {
  const std::string whole = EncodeSnapshot(SampleSnapshot(), key);
  const bool all_bits = std::getenv("GOLDFINCH_LONG_TESTS") != nullptr;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (std::size_t bit = all_bits ? 0 : i % 8; bit < (all_bits ? 8 : i % 8 + 1);
         ++bit) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      ASSERT_TRUE(absl::IsDataLoss(DecodeSnapshot(flipped, key, {}).status())) << i;
    }
    ASSERT_TRUE(absl::IsDataLoss(DecodeSnapshot(whole.substr(0, i), key, {}).status()));
  }
  ASSERT_TRUE(absl::IsDataLoss(DecodeSnapshot(whole + '\0', key, {}).status()));
}

TEST(SnapshotDamageTest, EveryFlipAndTruncationIsDataLoss) {
  ExpectEveryDamageIsFound(nullptr);
}

TEST(SnapshotDamageTest, EveryFlipAndTruncationIsDataLossWithAKey) {
  ExpectEveryDamageIsFound(&kSampleKey);
}

TEST(SnapshotDamageTest, AnIntactBlobOfAnotherVersionIsFailedPrecondition) {
  const std::string sections = kIdentity + kTokens + kKeys + kState + kEnd;
  EXPECT_EQ(Code(Blob(sections)), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Blob(sections, 2)), kFailedPrecondition);
}

TEST(SnapshotDamageTest, SectionsAreAllThereOnceAndKnown) {
  EXPECT_EQ(Code(Blob(kIdentity + kTokens + kKeys + kEnd)), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + kTokens + kTokens + kKeys + kState + kEnd)), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + kTokens + kKeys + kState)), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + kTokens + kKeys + kState + kEnd + kEnd)), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + Section(77, "") + kEnd)), kFailedPrecondition);
}

TEST(SnapshotDamageTest, HostileLengthsAreDataLoss) {
  EXPECT_EQ(Code(Blob(Section(1, "", 0xffffffffffffffffu))), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + Section(2, kHuge))), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + Section(2, Int64(0x4000000000000000u)))), kDataLoss);
  EXPECT_EQ(Code(Blob(Section(1, kHuge))), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + kTokens + kKeys + kState + Section(5, kHuge) + kEnd)),
            kDataLoss);
}

TEST(SnapshotDamageTest, TokensAndKeysThatContradictAreDataLoss) {
  const std::string one = Section(2, Int64(1) + std::string(4, '\0'));
  const std::string negative = Section(2, Int64(1) + std::string(4, '\xff'));
  const std::string key = Section(3, Int64(2) + "ab");
  EXPECT_EQ(Code(Blob(kIdentity + one + key + kState + kEnd)), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Blob(kIdentity + negative + key + kState + kEnd)), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + kTokens + key + kState + kEnd)), kDataLoss);
  EXPECT_EQ(Code(Blob(kIdentity + one + Section(3, kHuge) + kState + kEnd)), kDataLoss);
}

}  // namespace
}  // namespace goldfinch
