// Declarations of the kernels inside the namespace of one instruction set; see
// kernels.h for what they do.
#pragma once

#include <cstdint>

#include "engine/backend/op_args.h"
#include "engine/kernels/cpu/kernels.h"

namespace goldfinch::GOLDFINCH_ISA {

void Gemm(const GemmArgs& args, std::int64_t row_begin, std::int64_t row_end,
          std::int64_t panel_begin, std::int64_t panel_end);
void EmbedNorm(const std::int32_t* tokens, const Matrix& table, const NormWeights& norm,
               const Matrix& out, const Matrix& copy, std::int64_t begin,
               std::int64_t end);
void NormShift(const NormShiftArgs& args, std::int64_t begin, std::int64_t end);
void NormToState(const Matrix& x, const NormWeights& norm, const std::int32_t* rows,
                 const std::int32_t* slots, const Matrix& state, std::int64_t begin,
                 std::int64_t end);
void RmsShift(const RmsShiftArgs& args, std::int64_t begin, std::int64_t end);
void Lerp(const LerpArgs& args, std::int64_t begin, std::int64_t end);
void Convert(const Matrix& in, const Matrix& out, std::int64_t begin, std::int64_t end);
void Wkv(const WkvArgs& args, std::int64_t begin, std::int64_t end);
void AddNorm(const AddNormArgs& args, std::int64_t begin, std::int64_t end);
void GatherRows(const Matrix& in, const std::int64_t* index, const Matrix& out,
                std::int64_t begin, std::int64_t end);
void GatherTokenRows(const Matrix& table, const std::int32_t* tokens, const Matrix& out,
                     std::int64_t begin, std::int64_t end);
void ScatterRows(const Matrix& in, const std::int64_t* index, const Matrix& out,
                 std::int64_t begin, std::int64_t end);
void ScatterQuantized(const Matrix& in, const std::int64_t* index, const Matrix& out,
                      std::uint16_t* scales, std::int64_t begin, std::int64_t end);
void GatherQuantized(const Matrix& in, const std::uint16_t* scales,
                     const std::int64_t* index, const Matrix& out, std::int64_t begin,
                     std::int64_t end);
void Rope(const Matrix& x, const std::int64_t* position, const double* frequency,
          std::int64_t begin, std::int64_t end);
void ScatterKeys(const Matrix& k, const std::int64_t* row, const KvTiles& tiles,
                 std::int64_t begin, std::int64_t end);
void ScatterValues(const Matrix& v, const std::int64_t* row, const KvTiles& tiles,
                   std::int64_t begin, std::int64_t end);
void Attend(const AttendArgs& args, const AttendPart& part);
void AttendFinish(const Matrix& carry, const NormWeights& norm, const Matrix& out,
                  std::int64_t begin, std::int64_t end);

}  // namespace goldfinch::GOLDFINCH_ISA
