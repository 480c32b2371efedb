#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/cpu_backend.h"
#include "engine/model/workspace.h"
#include "gtest/gtest.h"

namespace goldfinch {
namespace {

class StepInputsTest : public testing::Test {
 protected:
  // What ops would read of an array: on the CPU, the host may look.
  template <typename T>
  static std::vector<T> Seen(const StepArray<T>& array, std::size_t count) {
    return {array.device(), array.device() + count};
  }

  const std::unique_ptr<Backend> backend_ = *CreateCpuBackend({.num_threads = 1});
  DeviceArena memory_{*backend_};
  StepInputs inputs_{memory_};
};

TEST_F(StepInputsTest, AnUploadTakesWhatWasStagedAndKeepsTheOthers) {
  StepArray<std::int32_t> near(inputs_, 3), between(inputs_, 5);
  StepArray<std::int64_t> behind(inputs_, 4);
  StepArray<std::int32_t> far_off(inputs_, 100'000), last(inputs_, 2);
  inputs_.Take();
  const auto fill = [](auto& array, std::initializer_list<std::int32_t> values) {
    array.Clear();
    for (const std::int32_t value : values) array.Push(value);
  };
  fill(near, {1, 2, 3});
  fill(between, {4});
  fill(behind, {5, 6});
  fill(far_off, {7});
  fill(last, {8, 9});
  last.Stage();  // in any order
  between.Stage();
  near.Stage();
  inputs_.Upload();
  behind.Stage();
  inputs_.Upload();
  EXPECT_EQ(Seen(near, 3), (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(Seen(between, 2), (std::vector<std::int32_t>{4, 0}));
  EXPECT_EQ(Seen(behind, 2), (std::vector<std::int64_t>{5, 6}));
  EXPECT_EQ(Seen(far_off, 1), (std::vector<std::int32_t>{0}));
  EXPECT_EQ(Seen(last, 2), (std::vector<std::int32_t>{8, 9}));

  // Shorter than before: what was behind its end stays, and nobody looks.
  fill(near, {10});
  near.Stage();
  inputs_.Upload();
  EXPECT_EQ(Seen(near, 1), (std::vector<std::int32_t>{10}));
  EXPECT_EQ(near.size(), 1);
  inputs_.Upload();  // of nothing
  EXPECT_EQ(Seen(between, 1), (std::vector<std::int32_t>{4}));
}

// Where copies are not waited for, one more is cheaper than what lies in between.
TEST_F(StepInputsTest, WithoutABusNothingIsCopiedThatWasNotStaged) {
  StepArray<std::int32_t> first(inputs_, 3), between(inputs_, 1000), last(inputs_, 3);
  inputs_.Take();
  first.Push(1);
  between.Push(2);
  last.Push(3);
  first.Stage();
  last.Stage();
  inputs_.Upload();
  EXPECT_EQ(Seen(first, 1), (std::vector<std::int32_t>{1}));
  EXPECT_EQ(Seen(between, 1), (std::vector<std::int32_t>{0}));
  EXPECT_EQ(Seen(last, 1), (std::vector<std::int32_t>{3}));
}

TEST_F(StepInputsTest, PlacesAreAlignedAndStayWhereTheyAre) {
  StepArray<std::int32_t> odd(inputs_, 1);
  StepArray<std::int64_t> next(inputs_, 1);
  inputs_.Take();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(next.device()) % alignof(std::int64_t), 0);
  EXPECT_EQ(memory_.bytes(), 128);
  const std::int64_t* const place = next.device();
  next.Push(1);
  next.Stage();
  inputs_.Upload();
  EXPECT_EQ(next.device(), place);
  EXPECT_DEATH(next.Push(2), "CHECK failed");
}

}  // namespace
}  // namespace goldfinch
