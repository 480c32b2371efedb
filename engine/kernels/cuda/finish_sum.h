// What becomes of one sum of a product, whoever added it up. Device code.
#pragma once

#include "engine/kernels/cuda/device.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Some sums of a thread and where they belong; only those inside count.
template <int kSums>
struct Sums {
  float value[kSums];
  std::int64_t row[kSums], col[kSums];
  bool inside[kSums];
};

// Finish and operands as in op_args.h. All kernels share it and, contraction being off,
// its bits. What it reads is asked for before anything is written: a store might be to
// what the next sum reads, for all the compiler knows, and would make it wait.
template <int kSums>
__device__ __forceinline__ void FinishEach(const Matrix& y, const Epilogue& e,
                                           Sums<kSums>& sums) {
  const auto each = [&sums](const auto& visit) {
#pragma unroll
    for (int i = 0; i < kSums; ++i)
      if (sums.inside[i]) visit(i, sums.value[i], sums.row[i], sums.col[i]);
  };
  if (e.resume) {
    each([&](int, float& sum, std::int64_t row, std::int64_t col) {
      sum = Row<float>(y, row)[col] + sum;
    });
  }
  float a[kSums], b[kSums], bias[kSums];
  switch (e.finish) {
    case Finish::kStore:
      each([&](int, float sum, std::int64_t row, std::int64_t col) {
        Put(sum, y, row, col);
      });
      return;
    case Finish::kTanh:
      each([&](int, float sum, std::int64_t row, std::int64_t col) {
        Put(tanhf(sum), y, row, col);
      });
      return;
    case Finish::kReluSquared:
      each([&](int, float sum, std::int64_t row, std::int64_t col) {
        // Compared this way a NaN stays one.
        const float positive = sum < 0.0f ? 0.0f : sum;
        Put(positive * positive, y, row, col);
      });
      return;
    case Finish::kLerp:
      each([&](int i, float, std::int64_t row, std::int64_t col) {
        a[i] = Row<float>(e.a, row)[col];
        b[i] = Row<float>(e.b, row)[col];
        bias[i] = e.bias[col];
      });
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        const float v = Fma(b[i], bias[i] + sum, a[i]);
        if (e.copy.data != nullptr) Put(v, e.copy, row, col);
        Put(v, y, row, col);
      });
      return;
    case Finish::kDecay:
      each([&](int i, float, std::int64_t row, std::int64_t col) {
        bias[i] = e.bias[col];
        if (e.a.data != nullptr) a[i] = Row<float>(e.a, row)[col];
      });
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        const float decay = ExpOrZero(-expf(bias[i] + sum));
        if (e.a.data != nullptr) Row<float>(e.a, row)[col] = a[i] * (1.0f - decay);
        Put(decay, y, row, col);
      });
      return;
    case Finish::kAdd:
      each([&](int i, float, std::int64_t row, std::int64_t col) {
        a[i] = Row<float>(y, row)[col];
      });
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        Put(a[i] + sum, y, row, col);
      });
      return;
    case Finish::kGatedAdd:
      each([&](int i, float, std::int64_t row, std::int64_t col) {
        a[i] = Row<float>(e.a, row)[col];
        b[i] = Row<float>(y, row)[col];
      });
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        Put(Fma(Sigmoid(a[i]), sum, b[i]), y, row, col);
      });
      return;
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
