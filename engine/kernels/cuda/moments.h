// Statistics of a row for its normalisation, by a block of threads or a part of one:
//   LN(x) = (x - mean) / sqrt(var + eps) * weight + bias
// in two passes over the row, in float32. A sum is each thread's elements by ascending
// index, then over the warp, then over the warps.
#pragma once

#include "engine/kernels/cuda/device.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Of a block that has a row.
inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / kWarp;

struct Moments {
  float mean;
  float inverse_deviation;
};

// Of `cols` numbers; visit(add) calls add(x) for those that this thread has, in ascending
// order, and `sum` adds over all threads that take part.
template <typename Visit, typename Sum>
__device__ __forceinline__ Moments MomentsBy(const Visit& visit, int cols, float eps,
                                             const Sum& sum) {
  float own = 0.0f;
  visit([&own](float x) { own += x; });
  const auto count = static_cast<float>(cols);
  const float mean = sum(own) / count;
  float square = 0.0f;
  visit([&square, mean](float x) {
    const float d = x - mean;
    square = Fma(d, d, square);
  });
  return {mean, 1.0f / sqrtf(sum(square) / count + eps)};
}

// Of read(0) .. read(cols - 1), of which this thread has first, first + step, ...
template <typename ReadAt, typename Sum>
__device__ __forceinline__ Moments MomentsOf(const ReadAt& read, int cols, float eps,
                                             int first, int step, const Sum& sum) {
  return MomentsBy(
      [&](const auto& add) {
        for (int i = first; i < cols; i += step) add(read(i));
      },
      cols, eps, sum);
}

// By a block of kNormThreads, with room for kNormWarps numbers.
template <typename ReadAt>
__device__ __forceinline__ Moments BlockMoments(const ReadAt& read, int cols, float eps,
                                                float* scratch) {
  return MomentsOf(
      read, cols, eps, static_cast<int>(threadIdx.x), kNormThreads,
      [scratch](float value) { return BlockSum<kNormThreads>(value, scratch); });
}

// A column with what its normalisation multiplies by and adds.
struct NormColumn {
  float x, weight, bias;
};
__device__ __forceinline__ float Normalised(const NormColumn& c, const Moments& m) {
  return Fma((c.x - m.mean) * m.inverse_deviation, c.weight, c.bias);
}
__device__ __forceinline__ float Normalised(float x, const Moments& m,
                                            const NormWeights& norm, int i) {
  return Normalised({x, norm.weight[i], norm.bias[i]}, m);
}

// write(i, read(i)) of this thread's columns: first, first + step, ... below cols. It
// asks for the operands of some before it writes one: a store might be to what the next
// column reads, for all the compiler knows, and would make it wait. So would a branch
// between two reads, as of a division: a column that is not there is read as the first
// one again, and what is read is worked on in `write`.
template <int kEach = 4, typename ReadAt, typename WriteAt>
__device__ __forceinline__ void ForColumns(int cols, int first, int step,
                                           const ReadAt& read, const WriteAt& write) {
  for (int at = first; at < cols; at += kEach * step) {
    decltype(read(0)) values[kEach];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int i = at + e * step;
      values[e] = read(i < cols ? i : at);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int i = at + e * step;
      if (i >= cols) break;
      write(i, values[e]);
    }
  }
}
// The same where a block of kNormThreads has the row.
template <int kEach = 4, typename ReadAt, typename WriteAt>
__device__ __forceinline__ void ForColumns(int cols, const ReadAt& read,
                                           const WriteAt& write) {
  ForColumns<kEach>(cols, static_cast<int>(threadIdx.x), kNormThreads, read, write);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
