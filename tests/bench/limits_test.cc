// Limits of a device are measured by ops of its backend: here of the CPU's, whose own
// limits are known too.
#include "bench/limits.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "engine/backend/cpu_backend.h"

namespace goldfinch {
namespace {

std::unique_ptr<Backend> NewBackend() {
  auto backend = CreateCpuBackend({.num_threads = 1});
  EXPECT_TRUE(backend.ok());
  return *std::move(backend);
}

constexpr DeviceLimitSizes kSmall = {.copy_bytes = 1 << 20, .product = 256};

TEST(LimitsTest, BothTypesOfProductsAndCopiesHaveARate) {
  for (const bool bf16 : {true, false}) {
    const auto limits = DeviceLimits(NewBackend(), bf16, kSmall);
    EXPECT_GT(limits->Bandwidth(3), 1e6);
    EXPECT_GT(limits->PeakFlops(3), 1e6);
  }
}

// A product of this size is arithmetic, and no more than there is.
TEST(LimitsTest, ProductsAreNoFasterThanTheMachine) {
  const auto products = DeviceLimits(NewBackend(), /*bf16=*/false, {.product = 512});
  const double peak = CpuLimits(/*threads=*/1, /*bf16=*/false)->PeakFlops(5);
  if (peak == 0) GTEST_SKIP() << "this machine's peak is not known";
  EXPECT_LT(products->PeakFlops(5), 3 * peak);
}

}  // namespace
}  // namespace goldfinch
