// What becomes of one sum of a product, whoever added it up. Device code.
#pragma once

#include "engine/kernels/cuda/device.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Finish and operands as in op_args.h. All kernels share it and, contraction being off,
// its bits.
__device__ __forceinline__ void FinishSum(const Matrix& y, const Epilogue& e,
                                          std::int64_t row, std::int64_t col, float sum) {
  if (e.resume) sum = Row<float>(y, row)[col] + sum;
  switch (e.finish) {
    case Finish::kStore:
      Put(sum, y, row, col);
      return;
    case Finish::kTanh:
      Put(tanhf(sum), y, row, col);
      return;
    case Finish::kReluSquared: {
      // Compared this way a NaN stays one.
      const float positive = sum < 0.0f ? 0.0f : sum;
      Put(positive * positive, y, row, col);
      return;
    }
    case Finish::kLerp: {
      const float v =
          Fma(Row<float>(e.b, row)[col], e.bias[col] + sum, Row<float>(e.a, row)[col]);
      if (e.copy.data != nullptr) Put(v, e.copy, row, col);
      Put(v, y, row, col);
      return;
    }
    case Finish::kDecay: {
      const float decay = ExpOrZero(-expf(e.bias[col] + sum));
      if (e.a.data != nullptr) Row<float>(e.a, row)[col] *= 1.0f - decay;
      Put(decay, y, row, col);
      return;
    }
    case Finish::kAdd:
      Put(Row<float>(y, row)[col] + sum, y, row, col);
      return;
    case Finish::kGatedAdd: {
      const float gate = Sigmoid(Row<float>(e.a, row)[col]);
      Put(Fma(gate, sum, Row<float>(y, row)[col]), y, row, col);
      return;
    }
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
