#include "engine/model/padding.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

TEST(PaddingTest, StepsArePaddedToFewNumbersByLittle) {
  std::vector<std::int64_t> numbers;
  for (std::int64_t count = 1; count <= kMaxRecordedSequences; ++count) {
    const std::int64_t padded = PaddedSequences(count);
    EXPECT_GE(padded, count);
    EXPECT_LE(padded - count, kMaxPadding) << count;
    EXPECT_EQ(PaddedSequences(padded), padded);
    if (numbers.empty() || numbers.back() != padded) numbers.push_back(padded);
  }
  std::vector<std::int64_t> walked;
  for (std::int64_t i = 1; i <= kMaxRecordedSequences; i = NextPadded(i))
    walked.push_back(i);
  EXPECT_EQ(walked, numbers);
  EXPECT_EQ(numbers.size(), 3 + kMaxRecordedSequences / 8);
}

}  // namespace
}  // namespace goldfinch
