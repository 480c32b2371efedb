// Rows in int8 with a bf16 scale each, for compressed keys:
//   scale = bf16(max |x| / 127);  q = clamp(round(x / scale), -127, 127);  x' = q * scale
//   in : [rows, cols] float32      out : [cache rows, cols] int8, scales [cache rows]
// A row of zeros has scale 0 and comes back as zeros; one with a number that is not
// finite has scale NaN and comes back as NaN. Rounding is to nearest even. Every step is
// one IEEE operation, so rows are the CPU's bit for bit. A warp a row.
#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/kernels.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = kThreads / kWarp;

__device__ __forceinline__ std::int64_t TaskRow() {
  return std::int64_t{blockIdx.x} * kRows + threadIdx.x / kWarp;
}

__global__ void __launch_bounds__(kThreads)
    ScatterQuantizedKernel(Matrix in, const std::int64_t* index, Matrix out,
                           std::uint16_t* scales) {
  AwaitLaunch();
  const std::int64_t row = TaskRow();
  if (row >= in.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            cols = static_cast<int>(in.cols);
  const float* const x = Row<float>(in, row);
  std::int8_t* const q = Row<std::int8_t>(out, index[row]);
  float largest = 0.0f, poison = 0.0f;
  for (int i = lane; i < cols; i += kWarp) {
    const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
    largest = magnitude > largest ? magnitude : largest;
    poison += x[i] * 0.0f;  // NaN of what is not finite
  }
  largest = WarpMax(largest);
  poison = WarpSum(poison);
  const std::uint16_t stored = ToBf16(largest / 127.0f + poison);
  const float scale = FromBf16(stored);
  if (lane == 0) scales[index[row]] = stored;
  for (int i = lane; i < cols; i += kWarp) {
    float value = scale > 0.0f ? rintf(x[i] / scale) : 0.0f;
    value = value > 127.0f ? 127.0f : value < -127.0f ? -127.0f : value;
    q[i] = static_cast<std::int8_t>(value);
  }
}

__global__ void __launch_bounds__(kThreads)
    GatherQuantizedKernel(Matrix in, const std::uint16_t* scales,
                          const std::int64_t* index, Matrix out) {
  AwaitLaunch();
  const std::int64_t row = TaskRow();
  if (row >= out.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int8_t* const q = Row<std::int8_t>(in, index[row]);
  const float scale = FromBf16(scales[index[row]]);
  for (int i = lane; i < static_cast<int>(out.cols); i += kWarp)
    Put(static_cast<float>(q[i]) * scale, out, row, i);
}

}  // namespace

void PrepareQuantize(Stream& stream) {
  LoadKernels(stream, ScatterQuantizedKernel, GatherQuantizedKernel);
}

void ScatterQuantized(Stream& stream, const Matrix& in, const std::int64_t* index,
                      const Matrix& out, std::uint16_t* scales) {
  Launch(stream, "scatter_quantized", ScatterQuantizedKernel,
         dim3(BlocksFor(in.rows, kRows)), kThreads, 0, in, index, out, scales);
}

void GatherQuantized(Stream& stream, const Matrix& in, const std::uint16_t* scales,
                     const std::int64_t* index, const Matrix& out) {
  Launch(stream, "gather_quantized", GatherQuantizedKernel,
         dim3(BlocksFor(out.rows, kRows)), kThreads, 0, in, scales, index, out);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
