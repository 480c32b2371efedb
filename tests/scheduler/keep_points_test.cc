#include "scheduler/keep_points.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace goldfinch {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(KeepPointsTest, AShortPromptHasNone) {
  EXPECT_THAT(KeepPoints({.end = 511}, 16384), IsEmpty());
}

TEST(KeepPointsTest, ALongOneHasALadderThatGrowsCoarserBackwards) {
  EXPECT_THAT(KeepPoints({.end = 5000}, 16384),
              ElementsAre(5000 - 4096, 5000 - 1024, 5000 - 256, 5000 - 64));
}

TEST(KeepPointsTest, AVeryLongOneHasOneEveryInterval) {
  EXPECT_THAT(KeepPoints({.end = 3500}, 1000),
              ElementsAre(1000, 2000, 3000, 3500 - 256, 3500 - 64));
}

TEST(KeepPointsTest, WherePromptsPartedIsOneWhateverTheLength) {
  EXPECT_THAT(KeepPoints({.end = 200, .shared = 150}, 16384), ElementsAre(150));
  // And comes before others close to it.
  EXPECT_THAT(KeepPoints({.end = 1000, .shared = 950}, 1000), ElementsAre(744, 950));
}

TEST(KeepPointsTest, APromptThatWasSeenWholeIsKeptBeforeItsLastToken) {
  EXPECT_THAT(KeepPoints({.end = 200, .shared = 200}, 16384), ElementsAre(199));
  EXPECT_THAT(KeepPoints({.begin = 199, .end = 200, .shared = 200}, 16384), IsEmpty());
}

TEST(KeepPointsTest, NothingIsKeptOfWhatIsKnownOrAtTheEnd) {
  EXPECT_THAT(KeepPoints({.begin = 140, .end = 200, .shared = 150}, 16384), IsEmpty());
  EXPECT_THAT(KeepPoints({.begin = 4000, .end = 5000}, 16384), ElementsAre(4744, 4936));
}

TEST(KeepPointsTest, OnAGridAllOfThemAndTheLastBeforeTheEnd) {
  EXPECT_THAT(KeepPoints({.end = 200, .grid = 64}, 16384), ElementsAre(192));
  EXPECT_THAT(KeepPoints({.end = 193, .grid = 64}, 16384), ElementsAre(192));
  EXPECT_THAT(KeepPoints({.end = 192, .grid = 64}, 16384), ElementsAre(128));
  EXPECT_THAT(KeepPoints({.end = 60, .grid = 64}, 16384), IsEmpty());
  EXPECT_THAT(KeepPoints({.end = 400, .shared = 150, .grid = 64}, 16384),
              ElementsAre(128, 384));
  EXPECT_THAT(KeepPoints({.end = 5000, .grid = 64}, 16384),
              ElementsAre(896, 3968, 4736, 4928, 4992));
}

}  // namespace
}  // namespace goldfinch
