// Matrix products on the GPU.
#pragma once

#include <cstdint>
#include <span>

#include "engine/backend/op_args.h"
#include "engine/kernels/cuda/gemm_layout.h"
#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Weights of y = x W^T, W being [out, in], laid out as gemm_layout.h says.
struct GemmWeights {
  const void* data = nullptr;
  DType type = DType::kF32;       // of x
  DType storage = DType::kF32;    // `type`, kI8 or kFp8
  const float* scales = nullptr;  // [out]; kI8 and kFp8 only
  std::int64_t in = 0;
  std::int64_t out = 0;
};

struct GemmArgs {
  Matrix x = {};
  GemmWeights w = {};
  Matrix y = {};
  Epilogue epilogue = {};

  // The product of rows [first, first + count) alone, with their operands.
  GemmArgs Rows(std::int64_t first, std::int64_t count) const {
    GemmArgs some = *this;
    for (Matrix* m :
         {&some.x, &some.y, &some.epilogue.a, &some.epilogue.b, &some.epilogue.copy})
      if (m->data != nullptr) *m = m->RowsFrom(first, count);
    return some;
  }
};

inline constexpr std::size_t kMaxGemms = 16;

// Once a stream, before its first Gemm or FinishSums: loads their kernels and asks for
// the shared memory that they use.
void PrepareGemm(Stream& stream);

// Device memory that a Gemm may leave partial sums in until it is done.
std::int64_t GemmPartialBytes();

// Up to kMaxGemms products in as few launches as their types allow. Finish and operands
// as in op_args.h; with `resume` the sum over these inputs is added to y as one number.
// `partials` is GemmPartialBytes() of device memory, of this stream alone.
void Gemm(Stream& stream, std::span<const GemmArgs> products, float* partials);

// finish_sums.cu: what Gemm does with its sums, to those of another product. They are
// [rows, out] without gaps; y has at most 65535 rows.
void PrepareFinishSums(Stream& stream);  // called by PrepareGemm
void FinishSums(Stream& stream, const float* sums, const Matrix& y,
                const Epilogue& epilogue);

}  // namespace goldfinch::GOLDFINCH_CUDA
