// That races are found (race_check.h): each kernel has one, or all but.
#include "engine/kernels/cuda/launch.h"
#include "gtest/gtest.h"
#include "tests/emulation/watched_kernels.h"

namespace goldfinch::cuda_emulated {
namespace {

constexpr int kFloats = 4 * kBlock;

class RaceCheckTest : public testing::Test {
 protected:
  RaceCheckTest() {
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    stream_.Check(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking), "");
    for (float** const p : {&a_, &b_, &c_}) {
      void* memory = nullptr;
      EXPECT_EQ(cudaMalloc(&memory, kFloats * sizeof(float)), cudaSuccess);
      *p = static_cast<float*>(memory);
    }
  }
  ~RaceCheckTest() override {
    for (float* const p : {a_, b_, c_}) EXPECT_EQ(cudaFree(p), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_.handle), cudaSuccess);
  }

  template <typename... P, typename... A>
  void Run(void (*kernel)(P...), unsigned blocks, A... args) {
    Launch(stream_, "kernel", kernel, dim3(blocks), kBlock, kBlock * sizeof(float),
           args...);
    Wait();
  }
  void Wait() {
    stream_.Check(cudaStreamSynchronize(stream_.handle), "cudaStreamSynchronize");
  }

  Stream stream_;
  float *a_ = nullptr, *b_ = nullptr, *c_ = nullptr;
};
using RaceCheckDeathTest = RaceCheckTest;

constexpr char kNoBarrier[] = "a race: no barrier between two threads.*in kernel";
constexpr char kTwoBlocks[] = "a race: two blocks.*in kernel";

TEST_F(RaceCheckDeathTest, ReadsNeedABarrierAfterWrites) {
  Run(ReadAfterWrite, 2, a_, true);
  EXPECT_DEATH(Run(ReadAfterWrite, 1, a_, false), kNoBarrier);
}

TEST_F(RaceCheckDeathTest, WritesNeedABarrierAfterReads) {
  Run(WriteAfterRead, 2, a_, true);
  EXPECT_DEATH(Run(WriteAfterRead, 1, a_, false), kNoBarrier);
}

TEST_F(RaceCheckDeathTest, OneThreadWrites) {
  Run(WriteAfterWrite, 1, a_, 1);
  EXPECT_DEATH(Run(WriteAfterWrite, 1, a_, 2), kNoBarrier);
}

TEST_F(RaceCheckDeathTest, AShuffleIsNoBarrier) {
  Run(ReadAfterShuffle, 1, a_, true);
  EXPECT_DEATH(Run(ReadAfterShuffle, 1, a_, false), kNoBarrier);
}

TEST_F(RaceCheckDeathTest, BytesAreToldApart) {
  Run(WriteHalves, 1, a_, 2);
  EXPECT_DEATH(Run(WriteHalves, 1, a_, 1), kNoBarrier);
}

TEST_F(RaceCheckDeathTest, AtomicAdditionsAreNoRaceButWithOtherUses) {
  auto* const count = reinterpret_cast<unsigned*>(a_);
  Run(Count, 2, count, true, false);
  EXPECT_DEATH(Run(Count, 1, count, false, false), kNoBarrier);
  EXPECT_DEATH(Run(Count, 1, count, true, true), kNoBarrier);
}

TEST_F(RaceCheckDeathTest, BlocksDoNotShareWhatTheyWrite) {
  Run(ReadOtherBlock, 3, a_, 0u);
  EXPECT_DEATH(Run(ReadOtherBlock, 3, a_, 1u), kTwoBlocks);
  Run(WriteWhatAllRead, 3, a_, false);
  EXPECT_DEATH(Run(WriteWhatAllRead, 3, a_, true), kTwoBlocks);
}

TEST_F(RaceCheckDeathTest, AsynchronousCopiesAreOrderedLikeWrites) {
  const auto run = [this](Mistake mistake) { Run(Pipeline, 1, a_, b_, mistake); };
  run(Mistake::kNone);
  EXPECT_DEATH(run(Mistake::kFillEarly), kNoBarrier);
  EXPECT_DEATH(run(Mistake::kReadUnshared), kNoBarrier);
  EXPECT_DEATH(run(Mistake::kReadEarly), "an asynchronous copy was not waited for");
}

TEST_F(RaceCheckDeathTest, KernelsThatOverlapWaitBeforeTheyUseWhatOthersWrite) {
  stream_.overlap = true;
  const auto run = [this](Early early) {
    Launch(stream_, "fill", Fill, dim3(2), kBlock, 0, b_, 1.0f);
    Launch(stream_, "kernel", StartEarly, dim3(2), kBlock, 0, a_, b_, c_, early);
    Launch(stream_, "kernel", StartEarly, dim3(2), kBlock, 0, a_, c_, b_, early);
    Wait();
  };
  run(Early::kNothing);
  run(Early::kNothing);
  EXPECT_DEATH(run(Early::kReads), "a race: a kernel does not wait.*in kernel");
  EXPECT_DEATH(run(Early::kWrites), "a kernel writes before it waits.*in kernel");
}

TEST_F(RaceCheckDeathTest, OnlyWhatMayStillRunIsWaitedFor) {
  stream_.overlap = true;
  const auto early = [this] {
    Launch(stream_, "kernel", StartEarly, dim3(2), kBlock, 0, a_, b_, c_, Early::kReads);
  };
  Launch(stream_, "fill", Fill, dim3(2), kBlock, 0, b_, 1.0f);
  Wait();
  early();
  Wait();
  // Of two kernels before it that overlap, each may still run.
  const auto later = [this, early] {
    Launch(stream_, "fill", Fill, dim3(2), kBlock, 0, b_, 1.0f);
    Launch(stream_, "fill", Fill, dim3(2), kBlock, 0, c_, 1.0f);
    early();
    Wait();
  };
  EXPECT_DEATH(later(), "a race: a kernel does not wait.*in kernel");
}

}  // namespace
}  // namespace goldfinch::cuda_emulated
