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

// visit(i) for each that is inside.
template <int kSums, typename Visit>
__device__ __forceinline__ void ForInside(const Sums<kSums>& sums, const Visit& visit) {
#pragma unroll
  for (int i = 0; i < kSums; ++i)
    if (sums.inside[i]) visit(i);
}

// What finishing reads besides the sums.
template <int kSums>
struct FinishOperands {
  float before[kSums];  // with resume: what has been added up so far
  float a[kSums], b[kSums], bias[kSums];
};

// Of sums that need not have a value yet.
template <int kSums>
__device__ __forceinline__ void AskOperands(const Matrix& y, const Epilogue& e,
                                            const Sums<kSums>& sums,
                                            FinishOperands<kSums>& to) {
  const auto of = [&sums](const Matrix& m, int i) {
    return Row<float>(m, sums.row[i])[sums.col[i]];
  };
  if (e.resume) ForInside(sums, [&](int i) { to.before[i] = of(y, i); });
  switch (e.finish) {
    case Finish::kStore:
    case Finish::kTanh:
    case Finish::kReluSquared:
      return;
    case Finish::kLerp:
      ForInside(sums, [&](int i) {
        to.a[i] = of(e.a, i);
        to.b[i] = of(e.b, i);
        to.bias[i] = e.bias[sums.col[i]];
      });
      return;
    case Finish::kDecay:
      ForInside(sums, [&](int i) {
        to.bias[i] = e.bias[sums.col[i]];
        if (e.a.data != nullptr) to.a[i] = of(e.a, i);
      });
      return;
    case Finish::kAdd:
      ForInside(sums, [&](int i) { to.a[i] = of(y, i); });
      return;
    case Finish::kGatedAdd:
      ForInside(sums, [&](int i) {
        to.a[i] = of(e.a, i);
        to.b[i] = of(y, i);
      });
      return;
  }
}

// Finish and operands as in op_args.h. All kernels share it and, contraction being off,
// its bits. What it reads has been asked for before anything is written: a store might be
// to what the next sum reads, for all the compiler knows, and would make it wait.
template <int kSums>
__device__ __forceinline__ void FinishEach(const Matrix& y, const Epilogue& e,
                                           Sums<kSums>& sums,
                                           const FinishOperands<kSums>& from) {
  const auto each = [&sums](const auto& visit) {
    ForInside(sums, [&](int i) { visit(i, sums.value[i], sums.row[i], sums.col[i]); });
  };
  if (e.resume)
    ForInside(sums, [&](int i) { sums.value[i] = from.before[i] + sums.value[i]; });
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
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        const float v = Fma(from.b[i], from.bias[i] + sum, from.a[i]);
        if (e.copy.data != nullptr) Put(v, e.copy, row, col);
        Put(v, y, row, col);
      });
      return;
    case Finish::kDecay:
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        const float decay = ExpOrZero(-expf(from.bias[i] + sum));
        if (e.a.data != nullptr) Row<float>(e.a, row)[col] = from.a[i] * (1.0f - decay);
        Put(decay, y, row, col);
      });
      return;
    case Finish::kAdd:
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        Put(from.a[i] + sum, y, row, col);
      });
      return;
    case Finish::kGatedAdd:
      each([&](int i, float sum, std::int64_t row, std::int64_t col) {
        Put(Fma(Sigmoid(from.a[i]), sum, from.b[i]), y, row, col);
      });
      return;
  }
}
template <int kSums>
__device__ __forceinline__ void FinishEach(const Matrix& y, const Epilogue& e,
                                           Sums<kSums>& sums) {
  FinishOperands<kSums> operands = {};
  AskOperands(y, e, sums, operands);
  FinishEach(y, e, sums, operands);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
