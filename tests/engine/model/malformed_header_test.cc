// Every way a safetensors header can be wrong is refused, and the message says which.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_header.h"
#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {
namespace {

struct MalformedHeader {
  const char* name;
  std::string header;
  std::uint64_t data_bytes;
  const char* message;  // how the error begins
};

std::ostream& operator<<(std::ostream& out, const MalformedHeader& one) {
  return out << one.header.substr(0, 200);
}

// One tensor "t" with these fields.
std::string Tensor(const std::string& fields) {
  return absl::StrCat("{\"t\":{", fields, "}}");
}

std::string Tensor(const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return Tensor(absl::StrCat("\"dtype\":", dtype, ",\"shape\":", shape,
                             ",\"data_offsets\":", offsets));
}

// Two tensors "a" and "b" of bytes, as [n] of BF16.
std::string Pair(int a_begin, int a_end, int b_begin, int b_end) {
  const auto one = [](const char* name, int begin, int end) {
    return absl::StrCat("\"", name, "\":{\"dtype\":\"BF16\",\"shape\":[",
                        (end - begin) / 2, "],\"data_offsets\":[", begin, ",", end, "]}");
  };
  return absl::StrCat("{", one("a", a_begin, a_end), ",", one("b", b_begin, b_end), "}");
}

class MalformedHeaderTest : public testing::TestWithParam<MalformedHeader> {};

TEST_P(MalformedHeaderTest, IsRefusedWithItsReason) {
  const auto entries = ParseSafetensorsHeader(GetParam().header, GetParam().data_bytes);
  ASSERT_FALSE(entries.ok());
  EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(entries.status().message()),
              testing::StartsWith(GetParam().message));
}

const MalformedHeader kNotTheFormat[] = {
    {"Empty", "", 0, "the header is not JSON: it breaks at its byte 1"},
    {"NotJson", "{\"t\":", 0, "the header is not JSON: it breaks at its byte 6"},
    {"TrailingText", "{}x", 0, "the header is not JSON: it breaks at its byte 3"},
    {"NotUtf8", "{\"\xff\":1}", 0, "the header is not JSON: it breaks at its byte 3"},
    {"AList", "[]", 0, "the header is not a JSON object"},
    {"ANumber", "7", 0, "the header is not a JSON object"},
    {"TensorIsAList", "{\"t\":[]}", 0, "tensor t is not described by an object"},
    {"TensorIsNull", "{\"t\":null}", 0, "tensor t is not described by an object"},
    {"MetadataIsAList", "{\"__metadata__\":[]}", 0,
     "__metadata__ is not a map from strings to strings"},
    {"MetadataHoldsANumber", "{\"__metadata__\":{\"a\":1}}", 0,
     "__metadata__ is not a map from strings to strings"},
    {"MetadataHoldsAnObject", "{\"__metadata__\":{\"a\":{}}}", 0,
     "__metadata__ is not a map from strings to strings"},
    {"DuplicateName",
     "{\"t\":{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[0,0]},\"t\":{}}", 0,
     "the name t occurs twice"},
    {"DuplicateMetadata", "{\"__metadata__\":{},\"__metadata__\":{}}", 0,
     "the name __metadata__ occurs twice"},
    {"DeepNesting", std::string(1'000'000, '['), 0, "the header is not a JSON object"},
    {"DeepNestingInATensor", "{\"t\":{\"shape\":" + std::string(1'000'000, '['), 0,
     "tensor t has a shape that is not a list of whole numbers from 0"},
};
INSTANTIATE_TEST_SUITE_P(NotTheFormat, MalformedHeaderTest,
                         testing::ValuesIn(kNotTheFormat),
                         [](const auto& param) { return param.param.name; });

const MalformedHeader kWrongFields[] = {
    {"NoDtype", Tensor("\"shape\":[],\"data_offsets\":[0,0]"), 0,
     "tensor t has no dtype"},
    {"NoShape", Tensor("\"dtype\":\"F32\",\"data_offsets\":[0,0]"), 0,
     "tensor t has no shape"},
    {"NoOffsets", Tensor("\"dtype\":\"F32\",\"shape\":[]"), 0,
     "tensor t has no data_offsets"},
    {"UnknownField", Tensor("\"size\":3"), 0, "tensor t has an unknown field size"},
    {"TwoDtypes", Tensor("\"dtype\":\"F32\",\"dtype\":\"F32\""), 0,
     "tensor t has two fields dtype"},
    {"TwoShapes", Tensor("\"shape\":[],\"shape\":[]"), 0,
     "tensor t has two fields shape"},
    {"TwoOffsets", Tensor("\"data_offsets\":[0,0],\"data_offsets\":[0,0]"), 0,
     "tensor t has two fields data_offsets"},
    {"UnknownDtype", Tensor("\"F64\"", "[1]", "[0,8]"), 8,
     "tensor t has dtype \"F64\"; it must be BF16, F16, F32 or I32"},
    {"DtypeInLowerCase", Tensor("\"bf16\"", "[1]", "[0,2]"), 2,
     "tensor t has dtype \"bf16\"; it must be BF16, F16, F32 or I32"},
    {"DtypeIsANumber", Tensor("16", "[1]", "[0,2]"), 2,
     "tensor t has a dtype that is not a string"},
    {"ShapeIsANumber", Tensor("\"F32\"", "1", "[0,4]"), 4,
     "tensor t has a shape that is not a list of whole numbers from 0"},
    {"NegativeDimension", Tensor("\"F32\"", "[-1]", "[0,4]"), 4,
     "tensor t has a shape that is not a list of whole numbers from 0"},
    {"FractionalDimension", Tensor("\"F32\"", "[1.0]", "[0,4]"), 4,
     "tensor t has a shape that is not a list of whole numbers from 0"},
    {"DimensionAsText", Tensor("\"F32\"", "[\"1\"]", "[0,4]"), 4,
     "tensor t has a shape that is not a list of whole numbers from 0"},
    {"DimensionBeyondInt64", Tensor("\"F32\"", "[9223372036854775808]", "[0,4]"), 4,
     "tensor t has a dimension of 9223372036854775808"},
    {"DimensionBeyondUint64", Tensor("\"F32\"", "[18446744073709551616]", "[0,4]"), 4,
     "tensor t has a shape that is not a list of whole numbers from 0"},
    {"TooManyDimensions", Tensor("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4,
     "tensor t has more than 8 dimensions, the limit"},
    {"OneOffset", Tensor("\"F32\"", "[1]", "[4]"), 4,
     "tensor t has data_offsets that are not two whole numbers from 0"},
    {"ThreeOffsets", Tensor("\"F32\"", "[1]", "[0,4,4]"), 4,
     "tensor t has data_offsets that are not two whole numbers from 0"},
    {"NegativeOffset", Tensor("\"F32\"", "[1]", "[-4,0]"), 4,
     "tensor t has data_offsets that are not two whole numbers from 0"},
    {"FractionalOffset", Tensor("\"F32\"", "[1]", "[0,4e0]"), 4,
     "tensor t has data_offsets that are not two whole numbers from 0"},
};
INSTANTIATE_TEST_SUITE_P(WrongFields, MalformedHeaderTest,
                         testing::ValuesIn(kWrongFields),
                         [](const auto& param) { return param.param.name; });

const MalformedHeader kWrongLayout[] = {
    {"ShapeOverflows", Tensor("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0,
     "tensor t has shape [4294967296, 4294967296], whose bytes overflow 64 bits"},
    {"BytesOverflow", Tensor("\"F32\"", "[9223372036854775807]", "[0,0]"), 0,
     "tensor t has shape [9223372036854775807], whose bytes overflow 64 bits"},
    {"OverflowBeforeAZero", Tensor("\"F32\"", "[4294967296,4294967296,0]", "[0,0]"), 0,
     "tensor t has shape [4294967296, 4294967296, 0], whose bytes overflow 64 bits"},
    {"BytesAreNotTheShapes", Tensor("\"F32\"", "[2,2]", "[0,12]"), 12,
     "tensor t has 12 bytes; F32 [2, 2] takes 16"},
    {"ReversedOffsets", Tensor("\"F32\"", "[1]", "[8,4]"), 8,
     "tensor t has reversed data_offsets [8, 4]"},
    {"PastTheEnd", Tensor("\"F32\"", "[2]", "[0,8]"), 7,
     "tensor t ends at byte 8 of the data, which has 7"},
    {"FarPastTheEnd",
     Tensor("\"F32\"", "[1]", "[18446744073709551611,18446744073709551615]"), 8,
     "tensor t ends at byte 18446744073709551615 of the data, which has 8"},
    {"Overlapping", Pair(0, 8, 6, 12), 12,
     "tensor b overlaps another: bytes 6 to 8 of the data belong to both"},
    {"TheSameBytesTwice", Pair(0, 8, 0, 8), 8,
     "tensor b overlaps another: bytes 0 to 8 of the data belong to both"},
    {"EmptyInsideAnother", Pair(0, 8, 4, 4), 8,
     "tensor b overlaps another: bytes 4 to 8 of the data belong to both"},
    {"HoleInFront", Pair(2, 8, 8, 12), 12,
     "bytes 0 to 2 of the data belong to no tensor"},
    {"HoleBetween", Pair(8, 12, 0, 6), 12,
     "bytes 6 to 8 of the data belong to no tensor"},
    {"BytesLeftOver", Pair(0, 8, 8, 12), 13,
     "bytes 12 to 13 of the data belong to no tensor"},
    {"DataWithoutTensors", "{}", 1, "bytes 0 to 1 of the data belong to no tensor"},
};
INSTANTIATE_TEST_SUITE_P(WrongLayout, MalformedHeaderTest,
                         testing::ValuesIn(kWrongLayout),
                         [](const auto& param) { return param.param.name; });

TEST(MalformedHeaderTest, AHostileNameIsPrintedOnOneShortLine) {
  const std::string name = "\\n\\u0007" + std::string(5000, 'n');
  const auto entries = ParseSafetensorsHeader("{\"" + name + "\":[]}", 0);
  const std::string message(entries.status().message());
  EXPECT_THAT(message, testing::StartsWith("tensor \\n\\x07nnn"));
  EXPECT_THAT(message, testing::EndsWith("nnn... is not described by an object"));
  EXPECT_LT(message.size(), 200u);
}

// Whatever the bytes, the answer is tensors that lie within the data or one line.
void ExpectSoundAnswer(const std::string& header, std::uint64_t data_bytes) {
  const auto entries = ParseSafetensorsHeader(header, data_bytes);
  if (!entries.ok()) {
    const auto message = entries.status().message();
    EXPECT_FALSE(message.empty());
    EXPECT_TRUE(std::all_of(message.begin(), message.end(), [](unsigned char c) {
      return std::isprint(c) != 0;
    })) << message;
    return;
  }
  std::uint64_t covered = 0;
  for (const TensorEntry& entry : *entries) {
    ASSERT_EQ(entry.begin, covered);
    ASSERT_GE(entry.end, entry.begin);
    covered = entry.end;
  }
  EXPECT_EQ(covered, data_bytes);
}

constexpr std::uint64_t kFuzzSeed = 20240717;
constexpr int kFuzzRounds = 20000;

TEST(HeaderFuzzTest, NoMutationOfAHeaderCrashesOrEscapesTheData) {
  const std::string header =
      "{\"__metadata__\":{\"k\":\"v\"},"
      "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
      "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}";
  ASSERT_TRUE(ParseSafetensorsHeader(header, 16).ok());
  const std::vector<std::string> pieces = {"{",
                                           "}",
                                           "[",
                                           "]",
                                           ",",
                                           ":",
                                           "\"",
                                           "-",
                                           "0",
                                           "9",
                                           "e9",
                                           "null",
                                           "true",
                                           "\"a\"",
                                           "\"b\"",
                                           "\"dtype\"",
                                           "\"shape\"",
                                           "\"data_offsets\"",
                                           "__metadata__",
                                           "\"F32\"",
                                           "18446744073709551615",
                                           "18446744073709551616",
                                           "1e999",
                                           "[0,0]",
                                           "\\u0000",
                                           "\xff"};
  std::mt19937_64 random(kFuzzSeed);
  for (int round = 0; round < kFuzzRounds; ++round) {
    std::string mutated = header;
    for (std::uint64_t edits = 1 + random() % 4; edits > 0 && !mutated.empty(); --edits) {
      const std::size_t at = random() % mutated.size();
      switch (random() % 4) {
        case 0:
          mutated[at] = static_cast<char>(mutated[at] ^ (1 << random() % 8));
          break;
        case 1:
          mutated.erase(at, 1 + random() % 12);
          break;
        case 2:
          mutated.insert(at, pieces[random() % pieces.size()]);
          break;
        default:
          mutated.insert(at, mutated.substr(random() % mutated.size(), random() % 40));
      }
    }
    ExpectSoundAnswer(mutated, random() % 4 == 0 ? random() % 32 : 16);
  }
}

}  // namespace
}  // namespace goldfinch
