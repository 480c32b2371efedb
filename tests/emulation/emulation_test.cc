// That the emulated device finds what it is there to find: each test makes one mistake.
#include "tests/emulation/emulation.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/launch.h"
#include "gtest/gtest.h"
#include "tests/emulation/emulated_backend.h"

namespace goldfinch::cuda_emulated {
namespace {

using emulation::Order;

constexpr int kBlock = 64;

// One number a thread, by the order of blocks, from shared memory that nobody wrote.
__global__ void ReadUnwritten(float* out) {
  __shared__ float memory[kBlock];
  if (out == nullptr) memory[threadIdx.x] = 1.0f;
  out[blockIdx.x * kBlock + threadIdx.x] = memory[threadIdx.x];
  __syncthreads();
  memory[threadIdx.x] = 2.0f;  // for the next block to find
}

__global__ void ReadUnwrittenDynamic(float* out) {
  auto* const memory = static_cast<float*>(DynamicShared());
  out[blockIdx.x * kBlock + threadIdx.x] = memory[threadIdx.x];
  __syncthreads();
  memory[threadIdx.x] = 2.0f;
}

__global__ void LoadAt(const float* in, float* out, int offset) {
  const auto four = LoadVector<float4>(in + offset);
  out[threadIdx.x] = four.x;
}

__global__ void CopyAt(const float* in, float* out, int offset, int room) {
  auto* const memory = static_cast<float*>(DynamicShared());
  AsyncCopy16(memory + room, in + offset, 0);
  AsyncCommit();
  AsyncWait<0>();
  out[0] = memory[room];
}

// Every block adds what the one before left.
__global__ void ReadOtherBlocks(float* out) {
  out[blockIdx.x] = blockIdx.x == 0 ? 1.0f : out[blockIdx.x - 1] + 1.0f;
}

__global__ void Fill(float* out, float value, int count) {
  AwaitLaunch();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kBlock) out[i] = value;
}

// Copies: with `early`, before it waited for the kernel that writes `in`.
__global__ void Copy(const float* in, float* out, bool early) {
  float x = early ? in[threadIdx.x] : 0.0f;
  AwaitLaunch();
  if (!early) x = in[threadIdx.x];
  out[threadIdx.x] = x;
}

// Reads `in` and, too early, writes over it.
__global__ void WriteEarly(float* in, bool early) {
  if (early) in[threadIdx.x] = 7.0f;
  AwaitLaunch();
  if (!early) in[threadIdx.x] = 7.0f;
}

// Its shared memory survives the wait for a kernel that uses the same.
__global__ void KeepShared(float* out) {
  __shared__ float memory[kBlock];
  memory[threadIdx.x] = static_cast<float>(threadIdx.x);
  AwaitLaunch();
  __syncthreads();
  out[threadIdx.x] = memory[kBlock - 1 - threadIdx.x];
}

__global__ void NeverWaits(float* out) { out[threadIdx.x] = 1.0f; }

__global__ void TakesShared(float* out) {
  AwaitLaunch();
  out[0] = static_cast<float*>(DynamicShared())[0];
}

class EmulationTest : public testing::Test {
 protected:
  EmulationTest() {
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    stream_.Check(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking), "");
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, kBytes), cudaSuccess);
    device_ = static_cast<float*>(p);
    EXPECT_EQ(cudaMalloc(&p, kBytes), cudaSuccess);
    other_ = static_cast<float*>(p);
    EXPECT_EQ(cudaHostAlloc(&p, kBytes, cudaHostAllocDefault), cudaSuccess);
    host_ = static_cast<float*>(p);
  }
  ~EmulationTest() override {
    emulation::SetOrder(Order::kForward);
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    EXPECT_EQ(cudaFree(device_), cudaSuccess);
    EXPECT_EQ(cudaFree(other_), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(host_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_.handle), cudaSuccess);
  }

  void Wait() {
    stream_.Check(cudaStreamSynchronize(stream_.handle), "cudaStreamSynchronize");
  }
  std::vector<float> Device(const float* from) {
    Wait();
    EXPECT_EQ(
        cudaMemcpyAsync(host_, from, kBytes, cudaMemcpyDeviceToHost, stream_.handle),
        cudaSuccess);
    Wait();
    return {host_, host_ + kCount};
  }

  static constexpr int kCount = 4 * kBlock;
  static constexpr std::size_t kBytes = kCount * sizeof(float);

  Stream stream_;
  float *device_ = nullptr, *other_ = nullptr, *host_ = nullptr;
};
using EmulationDeathTest = EmulationTest;

TEST_F(EmulationTest, SharedMemoryThatABlockHasNotWrittenIsNaN) {
  Launch(stream_, "", ReadUnwritten, dim3(4), kBlock, 0, device_);
  for (const float x : Device(device_)) ASSERT_TRUE(std::isnan(x)) << x;
  Launch(stream_, "", ReadUnwrittenDynamic, dim3(4), kBlock, kBlock * 4, device_);
  for (const float x : Device(device_)) ASSERT_TRUE(std::isnan(x)) << x;
}

TEST_F(EmulationTest, BlocksThatReadEachOtherChangeWithTheOrder) {
  Launch(stream_, "", ReadOtherBlocks, dim3(4), 1, 0, device_);
  const std::vector<float> forward = Device(device_);
  EXPECT_EQ(forward[3], 4.0f);
  Launch(stream_, "", Fill, dim3(1), kBlock, 0, device_, 0.0f, kCount);
  Wait();
  emulation::SetOrder(Order::kBackward);
  Launch(stream_, "", ReadOtherBlocks, dim3(4), 1, 0, device_);
  EXPECT_EQ(Device(device_)[3], 1.0f);
}

TEST_F(EmulationDeathTest, VectorsAreAligned) {
  const auto load = [this](int offset) {
    Launch(stream_, "load_at", LoadAt, dim3(1), 1, 0, device_, other_, offset);
    Wait();
  };
  load(4);
  EXPECT_DEATH(load(3), "an address of a vector is no multiple of its size, in load_at");
}

TEST_F(EmulationDeathTest, AsynchronousCopiesAreAlignedAndInside) {
  const auto copy = [this](int offset, int room) {
    Launch(stream_, "copy_at", CopyAt, dim3(1), 1, 32, device_, other_, offset, room);
    Wait();
  };
  copy(4, 4);
  EXPECT_DEATH(copy(1, 4), "no multiple of its size, in copy_at");
  EXPECT_DEATH(copy(4, 2), "no multiple of its size, in copy_at");
  EXPECT_DEATH(copy(kCount, 0), "comes from where no device memory is, in copy_at");
  EXPECT_DEATH(copy(0, 8), "goes beyond the block's memory, in copy_at");
}

TEST_F(EmulationTest, ABufferFilledAnewBeforeItWasCopiedFromIsFound) {
  host_[0] = 1.0f;
  ASSERT_EQ(cudaMemcpyAsync(device_, host_, 4, cudaMemcpyHostToDevice, stream_.handle),
            cudaSuccess);
  host_[0] = 2.0f;
  EXPECT_EQ(Device(device_)[0], 2.0f);
}

TEST_F(EmulationTest, ABufferReadBeforeItWasCopiedToIsFound) {
  Launch(stream_, "", Fill, dim3(1), kBlock, 0, device_, 3.0f, kCount);
  host_[0] = 3.0f;  // of an earlier copy
  ASSERT_EQ(cudaMemcpyAsync(host_, device_, 4, cudaMemcpyDeviceToHost, stream_.handle),
            cudaSuccess);
  EXPECT_TRUE(std::isnan(host_[0]));
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event, stream_.handle), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(device_, 0, 4, stream_.handle), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_EQ(host_[0], 3.0f);
  ASSERT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(EmulationDeathTest, CopiesAreOfMemoryThatIsThere) {
  float ordinary[kCount] = {};
  const auto copy = [this](void* to, const void* from, std::size_t bytes,
                           cudaMemcpyKind kind) {
    EXPECT_EQ(cudaMemcpyAsync(to, from, bytes, kind, stream_.handle), cudaSuccess);
  };
  EXPECT_DEATH(copy(device_, ordinary, 4, cudaMemcpyHostToDevice),
               "a copy goes beyond page-locked memory");
  EXPECT_DEATH(copy(host_, device_ + 1, kBytes, cudaMemcpyDeviceToHost),
               "a copy goes beyond device memory");
  EXPECT_DEATH(copy(other_ + 1, device_, kBytes, cudaMemcpyDeviceToDevice),
               "a copy goes beyond device memory");
}

#if !defined(__SANITIZE_ADDRESS__)  // which finds it first
TEST_F(EmulationDeathTest, WritingBehindTheEndIsFound) {
  const auto fill = [this](int count) {
    Launch(stream_, "", Fill, dim3(1), kBlock, 0, device_, 1.0f, count);
    Wait();
  };
  fill(kCount);
  EXPECT_DEATH(fill(kCount + 1), "memory was written before its start or behind its end");
}
#endif

TEST_F(EmulationTest, AKernelThatReadsTooEarlySeesNothingOfTheOneBefore) {
  stream_.overlap = true;
  for (const bool early : {false, true}) {
    Launch(stream_, "", Fill, dim3(1), kBlock, 0, device_, 1.0f, kCount);
    Wait();
    Launch(stream_, "", Fill, dim3(1), kBlock, 0, device_, 2.0f, kCount);
    Launch(stream_, "", Copy, dim3(1), kBlock, 0, device_, other_, early);
    EXPECT_EQ(Device(other_)[0], early ? 1.0f : 2.0f);
  }
}

TEST_F(EmulationTest, AKernelThatWritesTooEarlyIsSeenByTheOneBefore) {
  stream_.overlap = true;
  for (const bool early : {false, true}) {
    Launch(stream_, "", Fill, dim3(1), kBlock, 0, device_, 1.0f, kCount);
    Wait();
    Launch(stream_, "", Copy, dim3(1), kBlock, 0, device_, other_, false);
    Launch(stream_, "", WriteEarly, dim3(1), kBlock, 0, device_, early);
    EXPECT_EQ(Device(other_)[0], early ? 7.0f : 1.0f);
  }
}

TEST_F(EmulationTest, ABlockThatStartedEarlyKeepsItsSharedMemory) {
  stream_.overlap = true;
  for (int i = 0; i < 3; ++i)
    Launch(stream_, "", KeepShared, dim3(2), kBlock, 0, i == 1 ? other_ : device_);
  const std::vector<float> found = Device(device_), others = Device(other_);
  for (int i = 0; i < kBlock; ++i) {
    EXPECT_EQ(found[static_cast<std::size_t>(i)], static_cast<float>(kBlock - 1 - i));
    EXPECT_EQ(others[static_cast<std::size_t>(i)], static_cast<float>(kBlock - 1 - i));
  }
}

TEST_F(EmulationDeathTest, EveryDependentKernelWaits) {
  stream_.overlap = true;
  const auto launch = [this] {
    Launch(stream_, "never_waits", NeverWaits, dim3(1), kBlock, 0, device_);
    Wait();
  };
  EXPECT_DEATH(launch(), "never waited for the kernel before its own, in never_waits");
}

TEST_F(EmulationTest, LaunchesBeyondTheDeviceFail) {
  const auto launch = [this](dim3 grid, int block, std::size_t shared) {
    Stream stream = stream_;
    Launch(stream, "", TakesShared, grid, block, shared, device_);
    return stream.error;
  };
  constexpr int k64 = 64 << 10;
  EXPECT_EQ(launch(dim3(1, 65536), 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(dim3(1, 1, 65536), 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(dim3(1), 1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(dim3(1), 1, k64), cudaErrorInvalidValue);
  EXPECT_EQ(
      cudaFuncSetAttribute(TakesShared, cudaFuncAttributeMaxDynamicSharedMemorySize, k64),
      cudaSuccess);
  EXPECT_EQ(launch(dim3(1), 1, k64), cudaSuccess);
  EXPECT_EQ(launch(dim3(1), 1, k64 + 1), cudaErrorInvalidValue);
}

// A stream's graph of a kernel and whatever else `more` queues.
cudaGraphExec_t Graph(Stream& stream, float* p, const std::function<void()>& more = {}) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  stream.Check(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed),
               "begin");
  Launch(stream, "", Fill, dim3(1), kBlock, 0, p, 3.0f, kBlock);
  if (more) more();
  stream.Check(cudaStreamEndCapture(stream.handle, &graph), "end");
  stream.Check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaGraphDestroy(graph);
  return executable;
}

TEST_F(EmulationTest, AGraphRunsWhenItIsLaunchedAndEachTime) {
  const cudaGraphExec_t graph = Graph(stream_, device_);
  ASSERT_EQ(cudaGraphUpload(graph, stream_.handle), cudaSuccess);
  for (int i = 0; i < 2; ++i) {
    Launch(stream_, "", Fill, dim3(1), kBlock, 0, device_, 1.0f, kCount);
    EXPECT_EQ(Device(device_)[0], 1.0f);
    ASSERT_EQ(cudaGraphLaunch(graph, stream_.handle), cudaSuccess);
    EXPECT_EQ(Device(device_)[0], 3.0f);
  }
  cudaGraphExecDestroy(graph);
}

TEST_F(EmulationTest, NobodyWaitsForAStreamThatIsCaptured) {
  Stream stream = stream_;
  cudaGraphExecDestroy(Graph(stream, device_, [this] {
    EXPECT_EQ(cudaStreamSynchronize(stream_.handle), cudaErrorStreamCaptureUnsupported);
  }));
  EXPECT_TRUE(stream.ok());
}

TEST_F(EmulationDeathTest, GraphsHaveKernelsOnlyAndAreUploaded) {
  EXPECT_DEATH(
      Graph(stream_, device_, [this] { cudaMemsetAsync(device_, 0, 4, stream_.handle); }),
      "a graph has more in it than kernels");
  EXPECT_DEATH(cudaGraphLaunch(Graph(stream_, device_), stream_.handle),
               "a graph is launched that was not uploaded");
}

TEST_F(EmulationTest, AThreadWithAnotherDeviceLaunchesNothing) {
  Stream stream = stream_;
  std::thread([&] {
    EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
    Launch(stream, "", Fill, dim3(1), kBlock, 0, device_, 1.0f, kCount);
  }).join();
  EXPECT_EQ(stream.error, cudaErrorInvalidResourceHandle);
}

}  // namespace
}  // namespace goldfinch::cuda_emulated
