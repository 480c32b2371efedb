// Instruction sets of one numerics have the same bits in every product and in what is
// made of its sums, also where numbers are too small to be normal. (Of all other ops at
// once: tests/engine/forward/invariance_test.cc.)
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/cpu/gemm_trial.h"
#include "engine/kernels/cpu/tables.h"
#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

// Rows of ordinary numbers, of ones whose products are about as small as a normal number
// can be, of subnormal ones, and of zeros of either sign.
Grid OfAllSizes(std::int64_t rows, std::int64_t cols, std::uint64_t seed, DType type) {
  Grid out = RandomGrid(rows, cols, seed, type);
  const double scales[] = {1.0, 0x1p-120, 1.0, 0x1p-126, 0x1p-131, 1.0, -0.0};
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) out(i, j) *= scales[i % 7];
  return Rounded(out, type);
}

class SameBitsTest : public testing::Test {
 protected:
  // Sets that this machine runs, the first of which the others are compared with.
  static std::vector<std::unique_ptr<Backend>> OfOneNumerics() {
    std::vector<std::unique_ptr<Backend>> backends;
    for (const std::string& isa : CpuIsas()) {
      auto backend = MakeBackend({.isa = isa});
      if (!backend.ok() || (*backend)->numerics().find("fma") == std::string::npos)
        continue;
      backends.push_back(*std::move(backend));
    }
    return backends;
  }
};

constexpr std::int64_t kMostRows = 97;

std::vector<RowBits> Product(Backend& backend, std::int64_t rows, std::int64_t in,
                             std::int64_t out, DType type, DType storage, Finish finish) {
  const auto weights =
      PackWeights(backend, RandomGrid(out, in, 1, type, 0.25), type, storage);
  const Tensor x(backend, OfAllSizes(kMostRows, in, 2, type), type);
  // What the finishes start from and take in.
  const Tensor y(backend, OfAllSizes(rows, out, 3, DType::kF32));
  const Tensor a(backend, OfAllSizes(rows, out, 4, DType::kF32));
  const Tensor b(backend, OfAllSizes(rows, out, 5, DType::kF32));
  const DeviceArray<float> bias = FlatArray(backend, RandomGrid(1, out, 6));
  backend.Gemm({.x = x->Rows(rows),
                .w = weights.get(),
                .y = *y,
                .epilogue = {.finish = finish, .bias = bias.data(), .a = *a, .b = *b}});
  std::vector<RowBits> bits = y.Bits();
  for (const RowBits& row : a.Bits()) bits.push_back(row);  // kDecay changes it
  return bits;
}

TEST_F(SameBitsTest, OfProducts) {
  const auto backends = OfOneNumerics();
  if (backends.size() < 2) GTEST_SKIP() << "this machine runs one such set or none";
  struct Case {
    DType type, storage;
  };
  for (const auto [type, storage] :
       {Case{DType::kF32, DType::kF32}, Case{DType::kF32, DType::kI8},
        Case{DType::kF32, DType::kFp8}, Case{DType::kBf16, DType::kBf16},
        Case{DType::kBf16, DType::kI8}, Case{DType::kBf16, DType::kFp8}}) {
    // One piece of inputs and several, an odd last one, panels side by side and alone.
    for (const auto& [in, out] : {std::pair{1, 3}, {64, 160}, {257, 96}, {1031, 33}}) {
      for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 97}) {
        SCOPED_TRACE(testing::Message() << rows << " x " << in << " x " << out << ", "
                                        << SizeOf(type) << ", " << SizeOf(storage));
        const auto product = [&](Backend& backend) {
          return Product(backend, rows, in, out, type, storage, Finish::kStore);
        };
        const std::vector<RowBits> want = product(*backends[0]);
        for (std::size_t i = 1; i < backends.size(); ++i)
          ASSERT_EQ(product(*backends[i]), want) << backends[i]->numerics() << " " << i;
      }
    }
  }
}

TEST_F(SameBitsTest, OfWhatIsMadeOfSums) {
  const auto backends = OfOneNumerics();
  if (backends.size() < 2) GTEST_SKIP() << "this machine runs one such set or none";
  for (const DType type : {DType::kF32, DType::kBf16}) {
    for (const Finish finish : {Finish::kTanh, Finish::kReluSquared, Finish::kLerp,
                                Finish::kDecay, Finish::kAdd, Finish::kGatedAdd}) {
      SCOPED_TRACE(testing::Message()
                   << SizeOf(type) << ", " << static_cast<int>(finish));
      const auto product = [&](Backend& backend) {
        return Product(backend, 29, 130, 70, type, type, finish);
      };
      const std::vector<RowBits> want = product(*backends[0]);
      for (std::size_t i = 1; i < backends.size(); ++i)
        ASSERT_EQ(product(*backends[i]), want) << i;
    }
  }
}

// What the instruction for pairs of bf16 is specified to do to a sum, one input at a
// time.
float Flushed(float x) { return std::abs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
float Added(float sum, double x, double w) {
  return Flushed(std::fma(Flushed(static_cast<float>(x)), Flushed(static_cast<float>(w)),
                          Flushed(sum)));
}

// Were all sets wrong in the same way, or each one by itself, nothing above would tell.
TEST_F(SameBitsTest, OfTheSpecification) {
  constexpr std::int64_t kIn = 131, kOut = 40, kRows = 28;
  const Grid x = OfAllSizes(kRows, kIn, 2, DType::kBf16);
  const Grid w = RandomGrid(kOut, kIn, 1, DType::kBf16, 0.25);
  Grid want(kRows, kOut);
  for (std::int64_t m = 0; m < kRows; ++m) {
    for (std::int64_t n = 0; n < kOut; ++n) {
      float sum = 0.0f;
      for (std::int64_t k = 0; k < kIn; k += 2) {
        const bool pair = k + 1 < kIn;
        sum = Added(sum, pair ? x(m, k + 1) : 0.0, pair ? w(n, k + 1) : 0.0);
        sum = Added(sum, x(m, k), w(n, k));
      }
      want(m, n) = double{sum};
    }
  }
  int tried = 0;
  for (const auto& backend : OfOneNumerics()) {
    const Tensor input(*backend, x, DType::kBf16);
    const Tensor y(*backend, kRows, kOut, DType::kF32);
    const auto weights = PackWeights(*backend, w, DType::kBf16);
    backend->Gemm({.x = *input, .w = weights.get(), .y = *y});
    const Grid got = y.Read();
    for (std::int64_t m = 0; m < kRows; ++m)
      for (std::int64_t n = 0; n < kOut; ++n)
        ASSERT_EQ(got(m, n), want(m, n))
            << backend->kernels() << ", row " << m << ", column " << n;
    ++tried;
  }
  if (tried == 0) GTEST_SKIP() << "this machine runs no such set";
}

TEST(GemmTrialTest, TellsArithmeticsApart) {
  const CpuKernels& plain = **SelectCpuKernels("plain");
  EXPECT_TRUE(TryGemm(plain, plain).same_bits);
  const auto fused = SelectCpuKernels("avx2");
  if (!fused.ok()) GTEST_SKIP() << fused.status();
  EXPECT_FALSE(TryGemm(plain, **fused).same_bits);
}

TEST(GemmTrialTest, TellsWhoTakesLonger) {
  const CpuKernels& plain = **SelectCpuKernels("plain");
  CpuKernels twenty = plain;
  twenty.gemm = [](const GemmArgs& args, std::int64_t row_begin, std::int64_t row_end,
                   std::int64_t panel_begin, std::int64_t panel_end) {
    for (int i = 0; i < 20; ++i)
      (*SelectCpuKernels("plain"))
          ->gemm(args, row_begin, row_end, panel_begin, panel_end);
  };
  const GemmTrial trial = TryGemm(twenty, plain);
  EXPECT_TRUE(trial.same_bits);
  EXPECT_GT(trial.ratio, 1.1);
}

TEST(CpuIsasTest, FromAvx2OnAllHaveOneNumerics) {
  for (const char* isa : {"avx2", "avx512"}) {
    const auto kernels = SelectCpuKernels(isa);
    if (absl::IsFailedPrecondition(kernels.status())) continue;
    if (!kernels.ok()) GTEST_SKIP() << kernels.status();
    EXPECT_STREQ((*kernels)->name, isa);
    EXPECT_STREQ((*kernels)->numerics, "fma");
  }
  // Where the instruction for pairs is what it is specified to be.
  const auto pairs = SelectCpuKernels("avx512_bf16");
  if (!pairs.ok()) GTEST_SKIP() << pairs.status();
  EXPECT_STREQ((*pairs)->name, "avx512_bf16");
  const bool same = TryGemm(**pairs, **SelectCpuKernels("avx512")).same_bits;
  EXPECT_STREQ((*pairs)->numerics, same ? "fma" : "avx512_bf16");
}

}  // namespace
}  // namespace goldfinch
