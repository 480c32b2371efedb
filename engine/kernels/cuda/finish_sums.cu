// Sums of a library's product, finished as our own are (finish_sum.h).
#include "engine/kernels/cuda/finish_sum.h"
#include "engine/kernels/cuda/gemm.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kThreads = 256, kEach = 4;  // columns of a thread

// A row by kThreads * kEach columns; y and sums are [rows, cols].
__global__ void __launch_bounds__(kThreads)
    FinishRow(const float* sums, Matrix y, Epilogue epilogue) {
  AwaitLaunch();
  const std::int64_t row = blockIdx.y;
  const std::int64_t first = std::int64_t{blockIdx.x} * (kThreads * kEach) + threadIdx.x;
  Sums<kEach> some;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    some.row[i] = row;
    some.col[i] = first + i * kThreads;
    some.inside[i] = some.col[i] < y.cols;
    some.value[i] = some.inside[i] ? sums[row * y.cols + some.col[i]] : 0.0f;
  }
  FinishEach(y, epilogue, some);
}

}  // namespace

void PrepareFinishSums(Stream& stream) { LoadKernels(stream, FinishRow); }

void FinishSums(Stream& stream, const float* sums, const Matrix& y,
                const Epilogue& epilogue) {
  Launch(stream, "finish_sums", FinishRow,
         dim3(BlocksFor(y.cols, kThreads * kEach), static_cast<unsigned>(y.rows)),
         kThreads, 0, sums, y, epilogue);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
