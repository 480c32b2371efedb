// The ops of a Backend (engine/backend/backend.h) as launches on a stream; Gemm is in
// gemm.h, sampling in sample.h. Formulas stand in the kernels' files and beside their
// twins in kernels/cpu. Pointers are device memory; launches return at once.
//
// Every kernel gives a row the same bits whatever other rows there are.
#pragma once

#include <cstdint>

#include "engine/backend/op_args.h"
#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Each once for a device, before the first launch of its file.
void PrepareNorms(Stream& stream);
void PrepareElementwise(Stream& stream);
void PrepareQuantize(Stream& stream);
void PrepareWkv(Stream& stream);
void PrepareAttend(Stream& stream);
void PrepareStoreTiles(Stream& stream);

// norm.cu
void EmbedNorm(Stream& stream, const std::int32_t* tokens, const Matrix& table,
               const NormWeights& norm, const Matrix& out, const Matrix& copy);
void NormShift(Stream& stream, const NormShiftArgs& args);
void NormToState(Stream& stream, const Matrix& x, const NormWeights& norm,
                 const std::int32_t* rows, const std::int32_t* slots, std::int64_t count,
                 const Matrix& state);
void AddNorm(Stream& stream, const AddNormArgs& args);
void RmsShift(Stream& stream, const RmsShiftArgs& args);

// elementwise.cu
void Lerp(Stream& stream, const LerpArgs& args);
void Convert(Stream& stream, const Matrix& in, const Matrix& out);
void GatherRows(Stream& stream, const Matrix& in, const std::int64_t* index,
                const Matrix& out);
void GatherTokenRows(Stream& stream, const Matrix& table, const std::int32_t* tokens,
                     const Matrix& out);
void ScatterRows(Stream& stream, const Matrix& in, const std::int64_t* index,
                 const Matrix& out);
void ScatterTokens(Stream& stream, const std::int32_t* from, const std::int64_t* index,
                   std::int64_t count, const TokenStore& to);
void GatherTokens(Stream& stream, const TokenStore& from, const std::int64_t* index,
                  std::int64_t count, std::int32_t* to);
void GatherBlocks(Stream& stream, const void* from, std::int64_t bytes,
                  const std::int64_t* index, std::int64_t count, void* to);
void ScatterBlocks(Stream& stream, const void* from, std::int64_t bytes,
                   const std::int64_t* index, std::int64_t count, void* to);

// quantize.cu
void ScatterQuantized(Stream& stream, const Matrix& in, const std::int64_t* index,
                      const Matrix& out, std::uint16_t* scales);
void GatherQuantized(Stream& stream, const Matrix& in, const std::uint16_t* scales,
                     const std::int64_t* index, const Matrix& out);

// wkv.cu, wkv_blocks.cu
void Wkv(Stream& stream, const WkvArgs& args);

// attend.cu
void Rope(Stream& stream, const Matrix& x, const std::int64_t* position,
          const double* frequency);
// Of a workspace for `partials` partial results of kCarrySize floats each, one a chunk
// and head; at least one chunk's. What it launches depends on args.num_chunks only where
// that is more than there is room for.
void Attend(Stream& stream, const AttendArgs& args, float* workspace,
            std::int64_t partials);
void AttendFinish(Stream& stream, const Matrix& carry, const NormWeights& norm,
                  const Matrix& out);

// store_tiles.cu
void StoreTiles(Stream& stream, const StoreTilesArgs& args);

}  // namespace goldfinch::GOLDFINCH_CUDA
