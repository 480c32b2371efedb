// Which products go to cuBLASLt, which algorithms are chosen, and what becomes of its
// failures: what only the emulated library can show.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/emulation/emulated_backend.h"
#include "tests/emulation/emulation.h"
#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

using emulation::Lt;
using emulation::LtAlgorithm;
using testing::EndsWith;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr std::int64_t kIn = 64, kOut = 72, kRows = 400;
constexpr std::int64_t kOwnBytes = 80 * kIn * 2;  // of W as our kernels want it
constexpr std::int64_t kRowMajorBytes = kOut * kIn * 2;

std::int64_t NumProducts() {
  return emulation::NumLtProducts(LtAlgorithm::kSplit) +
         emulation::NumLtProducts(LtAlgorithm::kInPlace) +
         emulation::NumLtProducts(LtAlgorithm::kByRows) +
         emulation::NumLtProducts(LtAlgorithm::kGood);
}

class EmulatedLtTest : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the thread sanitizer does not follow fibers";
#endif
  }
  void TearDown() override {
    emulation::SetLt(Lt::kWhole);
    emulation::FailLtProduct(-1);
    emulation::FailCall(-1);
  }

  // A backend, its W and x.
  struct Fixture {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<PackedWeights> w;
    std::unique_ptr<Tensor> x;

    std::vector<RowBits> Run(std::int64_t rows, std::int64_t prompts,
                             const Epilogue& epilogue = {}) const {
      const Tensor y(*backend, Grid(rows, kOut, 0.5), DType::kF32, Rows::kAligned);
      backend->Gemm({(*x)->Rows(rows), w.get(), *y, epilogue, prompts});
      return y.Bits();
    }
  };
  static Fixture Make(Lt library, bool batch_invariant = true) {
    emulation::SetLt(library);
    CudaBackendOptions options = cuda_emulated::kTightOptions;
    options.batch_invariant = batch_invariant;
    auto backend = cuda_emulated::CreateCudaBackend(options);
    EXPECT_TRUE(backend.ok()) << backend.status();
    Fixture made{.backend = *std::move(backend), .w = {}, .x = {}};
    made.w =
        PackWeights(*made.backend, RandomGrid(kOut, kIn, 2, DType::kBf16), DType::kBf16);
    made.x =
        std::make_unique<Tensor>(*made.backend, RandomGrid(kRows, kIn, 1, DType::kBf16),
                                 DType::kBf16, Rows::kAligned);
    return made;
  }
};
using EmulatedLtDeathTest = EmulatedLtTest;

TEST_F(EmulatedLtTest, RowsOfPromptsAndNoOthersAreTheLibrarys) {
  const Fixture f = Make(Lt::kWhole);
  const std::int64_t all = NumProducts();
  const std::int64_t good = emulation::NumLtProducts(LtAlgorithm::kGood);
  const std::vector<RowBits> own = f.Run(kRows, 0);
  EXPECT_EQ(emulation::NumLtProducts(LtAlgorithm::kGood), good);
  const std::vector<RowBits> mixed = f.Run(kRows, 100);
  EXPECT_EQ(emulation::NumLtProducts(LtAlgorithm::kGood), good + 1);
  EXPECT_EQ(NumProducts(), all + 1);
  for (std::size_t i = 0; i < 300; ++i) ASSERT_EQ(mixed[i], own[i]);
  // Another order of adding.
  EXPECT_NE(std::vector(mixed.begin() + 300, mixed.end()),
            std::vector(own.begin() + 300, own.end()));
}

TEST_F(EmulatedLtTest, AnAlgorithmThatSplitsOrWhoseBitsDependOnRowsIsNotChosen) {
  const std::int64_t all = NumProducts();
  const std::int64_t by_rows = emulation::NumLtProducts(LtAlgorithm::kByRows);
  const Fixture f = Make(Lt::kNothingGood);
  // Tried, and alone.
  const std::int64_t tried = emulation::NumLtProducts(LtAlgorithm::kByRows) - by_rows;
  EXPECT_GT(tried, 0);
  EXPECT_EQ(NumProducts() - all, tried);
  EXPECT_EQ(f.w->bytes(), kOwnBytes);
  EXPECT_THAT(f.backend->numerics(), Not(HasSubstr("-lt")));
  const std::int64_t before = NumProducts();
  EXPECT_EQ(f.Run(kRows, 100), f.Run(kRows, 0));
  EXPECT_EQ(NumProducts(), before);
  EXPECT_TRUE(f.backend->status().ok());
}

TEST_F(EmulatedLtTest, WithoutTheLibraryOurKernelsHaveAllRows) {
  for (const Lt library : {Lt::kNone, Lt::kNoHandle}) {
    for (const bool batch_invariant : {true, false}) {
      const Fixture f = Make(library, batch_invariant);
      const std::int64_t before = NumProducts();
      EXPECT_EQ(f.w->bytes(), kOwnBytes);
      EXPECT_THAT(f.backend->numerics(), Not(HasSubstr("-lt")));
      EXPECT_EQ(f.Run(kRows, 100), f.Run(kRows, 0));
      EXPECT_EQ(NumProducts(), before);
      EXPECT_TRUE(f.backend->status().ok());
    }
  }
}

TEST_F(EmulatedLtTest, NumericsTellTheLibraryAndWhatWasChosenOfIt) {
  const Fixture one = Make(Lt::kWhole), two = Make(Lt::kWhole);
  EXPECT_THAT(one.backend->numerics(),
              testing::MatchesRegex("cuda-sm90-v[0-9]+-lt990100-[0-9a-f]{8}"));
  EXPECT_EQ(one.backend->numerics(), two.backend->numerics());
  const std::string before = two.backend->numerics();
  PackWeights(*two.backend, RandomGrid(64, 64, 1), DType::kBf16);
  EXPECT_NE(two.backend->numerics(), before);
  EXPECT_THAT(Make(Lt::kWhole, false).backend->numerics(), EndsWith("-nbi"));
  EXPECT_THAT(Make(Lt::kNone, false).backend->numerics(), EndsWith("-nbi"));
}

TEST_F(EmulatedLtTest, MatricesThatNeverGoToTheLibraryAreKeptOnce) {
  const Fixture f = Make(Lt::kWhole);
  EXPECT_EQ(f.w->bytes(), kOwnBytes + kRowMajorBytes);
  const std::int64_t own = f.backend->own_bytes();
  const auto pack = [&f](std::int64_t out, std::int64_t in, DType type, DType storage) {
    const std::int64_t before = emulation::DeviceBytes();
    const auto w =
        PackWeights(*f.backend, RandomGrid(out, in, 3, DType::kBf16), type, storage);
    EXPECT_EQ(emulation::DeviceBytes() - before, w->bytes());
    return w->bytes();
  };
  EXPECT_EQ(pack(80, 64, DType::kF32, DType::kF32), 80 * 64 * 4);
  EXPECT_EQ(pack(80, 64, DType::kBf16, DType::kI8), 80 * 64 + 80 * 4);
  EXPECT_EQ(pack(48, 64, DType::kBf16, DType::kBf16), 48 * 64 * 2);  // too few outputs
  EXPECT_EQ(pack(80, 32, DType::kBf16, DType::kBf16), 80 * 32 * 2);  // too few inputs
  EXPECT_EQ(pack(68, 64, DType::kBf16, DType::kBf16), 80 * 64 * 2);  // not aligned
  EXPECT_EQ(f.backend->own_bytes(), own);
}

TEST_F(EmulatedLtTest, RowsThatAreNotAlignedAreOurOwn) {
  const Fixture f = Make(Lt::kWhole);
  const Grid values = RandomGrid(kRows, kIn, 1, DType::kBf16);
  const Tensor odd(*f.backend, values, DType::kBf16, Rows::kAnywhere);
  const Tensor y(*f.backend, kRows, kOut, DType::kF32);
  const std::int64_t before = NumProducts();
  f.backend->Gemm({*odd, f.w.get(), *y, {}, kRows});
  EXPECT_EQ(NumProducts(), before);
  EXPECT_EQ(y.Bits(), f.Run(kRows, 0));
}

// Alignment of y decides which way its sums go, and no bit.
TEST_F(EmulatedLtTest, SumsHaveTheSameBitsDirectlyAndByWayOfOurKernel) {
  const Fixture f = Make(Lt::kWhole);
  for (const Finish finish : {Finish::kStore, Finish::kAdd}) {
    for (const bool resume : {false, true}) {
      const Tensor odd(*f.backend, Grid(kRows, kOut, 0.5));
      f.backend->Gemm(
          {**f.x, f.w.get(), *odd, {.finish = finish, .resume = resume}, kRows});
      EXPECT_EQ(odd.Bits(), f.Run(kRows, kRows, {.finish = finish, .resume = resume}));
      EXPECT_TRUE(odd.SurroundingsAreIntact());
    }
  }
}

TEST_F(EmulatedLtTest, StepsAllocateNothing) {
  for (const bool batch_invariant : {true, false}) {
    const std::int64_t before = emulation::DeviceBytes();
    const Fixture f = Make(Lt::kWhole, batch_invariant);
    const Tensor y(*f.backend, kRows, kOut, DType::kBf16, Rows::kAligned);
    const std::int64_t allocations = emulation::NumAllocations();
    for (const std::int64_t prompts : {kRows, std::int64_t{9}}) {
      f.backend->Gemm({**f.x, f.w.get(), *y, {.finish = Finish::kReluSquared}, prompts});
    }
    f.backend->Synchronize();
    EXPECT_EQ(emulation::NumAllocations(), allocations);
    const auto bytes_of = [](const Tensor& m) {
      return (m->rows + 2) * m->stride * SizeOf(m->type);
    };
    EXPECT_EQ(emulation::DeviceBytes() - before,
              f.backend->own_bytes() + f.w->bytes() + bytes_of(*f.x) + bytes_of(y));
  }
}

TEST_F(EmulatedLtTest, AProductThatIsRefusedIsAnInternalErrorAndTheLastOne) {
  const Fixture f = Make(Lt::kWhole);
  const Tensor y(*f.backend, kRows, kOut, DType::kF32, Rows::kAligned);
  const Backend::Product product = {**f.x, f.w.get(), *y, {}, 10};
  f.backend->Gemm(product);
  ASSERT_TRUE(f.backend->status().ok());
  emulation::FailLtProduct(0);
  f.backend->Gemm(product);
  const absl::Status status = f.backend->status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("found at cublasLtMatmul"));
  emulation::FailLtProduct(-1);
  const std::int64_t before = NumProducts();
  f.backend->Gemm(product);
  EXPECT_EQ(NumProducts(), before);
}

TEST_F(EmulatedLtTest, AFaultOfTheDeviceInAProductKeepsItsName) {
  const Fixture f = Make(Lt::kWhole);
  const Tensor y(*f.backend, kRows, kOut, DType::kF32, Rows::kAligned);
  f.backend->Synchronize();
  emulation::FailCall(0);
  f.backend->Gemm({**f.x, f.w.get(), *y, {}, kRows});
  emulation::FailCall(-1);
  // The library's own word for it, then the device's.
  EXPECT_THAT(std::string(f.backend->status().message()),
              AllOf(HasSubstr("cublasLtMatmul, which returned "),
                    HasSubstr(": cudaErrorIllegalAddress")));
}

TEST_F(EmulatedLtTest, AlgorithmsThatFailWhenTheyAreTriedAreNotChosen) {
  emulation::FailLtProduct(3);  // in the midst of the first one's trial
  const Fixture f = Make(Lt::kWhole);
  emulation::FailLtProduct(-1);
  EXPECT_TRUE(f.backend->status().ok()) << f.backend->status();
  EXPECT_EQ(f.w->bytes(), kOwnBytes);
  EXPECT_EQ(f.Run(kRows, 100), f.Run(kRows, 0));
}

TEST_F(EmulatedLtTest, NotBatchInvariantManyRowsOfAnyKindAreTheLibrarys) {
  const Fixture f = Make(Lt::kWhole, false), own = Make(Lt::kNone);
  std::int64_t before = NumProducts();
  EXPECT_EQ(f.Run(256, 0), own.Run(256, 0));
  EXPECT_EQ(NumProducts(), before);
  const Grid x = RandomGrid(kRows, kIn, 1, DType::kBf16);
  const Grid w = RandomGrid(kOut, kIn, 2, DType::kBf16);
  const Grid want = reference::Gemm(x, w);
  const Grid tolerance =
      Each([](double size) { return 1.01 * (kIn + 1) * kF32Unit * size + 1e-30; },
           reference::Gemm(reference::Abs(x), reference::Abs(w)));
  for (const std::int64_t rows : {1, 64, 65, 257, 400}) {
    for (const std::int64_t prompts : {std::int64_t{0}, rows / 2, rows}) {
      const Tensor y(*f.backend, rows, kOut, DType::kF32, Rows::kAligned);
      before = emulation::NumLtProducts(LtAlgorithm::kSplit);
      f.backend->Gemm({(*f.x)->Rows(rows), f.w.get(), *y, {}, prompts});
      EXPECT_EQ(emulation::NumLtProducts(LtAlgorithm::kSplit) - before,
                prompts > 0 || rows > 256 ? 1 : 0);
      ExpectClose(y.Read(), want.Rows(0, rows), tolerance.Rows(0, rows));
      EXPECT_TRUE(y.SurroundingsAreIntact());
    }
  }
}

TEST_F(EmulatedLtTest, OutputsBeyondTheScratchGoInPiecesOfFewerRows) {
  Fixture f = Make(Lt::kWhole);
  constexpr std::int64_t kWide = 8200;  // 255 rows, and so 248, at once
  const auto w =
      PackWeights(*f.backend, RandomGrid(kWide, kIn, 5, DType::kBf16), DType::kBf16);
  const Tensor x(*f.backend, RandomGrid(460, kIn, 6, DType::kBf16), DType::kBf16,
                 Rows::kAligned);
  const auto run = [&](std::int64_t first, std::int64_t rows) {
    const Tensor y(*f.backend, rows, kWide, DType::kBf16, Rows::kAligned);
    f.backend->Gemm({x->RowsFrom(first, rows), w.get(), *y, {}, rows});
    return y.Bits();
  };
  const std::int64_t before = NumProducts();
  const std::vector<RowBits> all = run(0, 460);
  EXPECT_EQ(NumProducts() - before, 2);
  EXPECT_EQ(run(455, 1)[0], all[455]);
  EXPECT_EQ(run(440, 1)[0], all[440]);
}

TEST_F(EmulatedLtDeathTest, RowsOfPromptsAreNotRecorded) {
  const Fixture f = Make(Lt::kWhole);
  const Tensor y(*f.backend, kRows, kOut, DType::kF32, Rows::kAligned);
  const auto record = [&](std::int64_t prompts) {
    f.backend->Record(1, [&] { f.backend->Gemm({**f.x, f.w.get(), *y, {}, prompts}); });
  };
  record(0);
  EXPECT_TRUE(f.backend->Replay(1));
  EXPECT_DEATH(record(1), "recording");
}

// A graph has our own kernels only, however many rows.
TEST_F(EmulatedLtTest, NotBatchInvariantManyRowsAreRecordedAsOurOwn) {
  const Fixture f = Make(Lt::kWhole, false), own = Make(Lt::kNone);
  const Tensor y(*f.backend, kRows, kOut, DType::kF32, Rows::kAligned);
  f.backend->Record(1, [&] { f.backend->Gemm({**f.x, f.w.get(), *y}); });
  EXPECT_TRUE(f.backend->Replay(1));
  EXPECT_EQ(y.Bits(), own.Run(kRows, 0));
}

}  // namespace
}  // namespace goldfinch
