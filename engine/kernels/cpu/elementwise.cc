// Ops between matrix products that look at one element at a time:
//   Lerp        out = cur + diff * mix
//   Convert     out = in
//   GatherRows, GatherTokenRows, ScatterRows: rows by their indices
// Inputs float32 (Convert's and GatherRows' may be bf16); outputs float32, or rounded to
// bf16 where the matrix says so. What is fused with a product is in epilogue.h.
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

GOLDFINCH_INLINE void CopyRow(const Matrix& in, std::int64_t from, const Matrix& out,
                              std::int64_t to) {
  for (std::int64_t at = 0; at < out.cols; at += kLanes)
    Write(Read(in, from, at), out, to, at);
}

}  // namespace

void Lerp(const LerpArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t out = begin; out < end; ++out) {
    const std::int64_t row = out % args.cur.rows;
    const float* mix = args.mix[out / args.cur.rows];
    for (std::int64_t at = 0; at < args.out.cols; at += kLanes)
      Write(MulAdd(Load(args.diff.f32(row) + at), Load(mix + at),
                   Load(args.cur.f32(row) + at)),
            args.out, out, at);
  }
}

void Convert(const Matrix& in, const Matrix& out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) CopyRow(in, row, out, row);
}

// out[i] = in[index[i]], or zero where the index is -1.
void GatherRows(const Matrix& in, const std::int64_t* index, const Matrix& out,
                std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    if (index[row] >= 0) {
      CopyRow(in, index[row], out, row);
      continue;
    }
    for (std::int64_t at = 0; at < out.cols; at += kLanes) Write(F32x16{}, out, row, at);
  }
}

void GatherTokenRows(const Matrix& table, const std::int32_t* tokens, const Matrix& out,
                     std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) CopyRow(table, tokens[row], out, row);
}

// out[index[i]] = in[i]; indices are distinct.
void ScatterRows(const Matrix& in, const std::int64_t* index, const Matrix& out,
                 std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) CopyRow(in, row, out, index[row]);
}

}  // namespace goldfinch::GOLDFINCH_ISA
