// The CPU's ops for one instruction set, as a table of functions.
//
// Each works on rows [begin, end) of its output (or tasks, where said), so that the
// backend cuts it among threads; a row's bits do not depend on the cut. Every kernel's
// file states its formula.
#pragma once

#include <cstdint>

#include "engine/backend/op_args.h"

namespace goldfinch {

inline constexpr std::int64_t kPanelColumns = 32;

// Weights of y = x W^T as panels of 32 outputs: panel p holds [in][32] values, or with
// `pairs` [in / 2][32][2] (inputs k and k+1 side by side), inputs padded to even and
// outputs to 32 with zeros. In int8 and fp8, y = (x Q^T) * scales with Q as stored.
struct GemmPanels {
  const void* data = nullptr;
  DType type = DType::kF32;       // of x
  DType storage = DType::kF32;    // of the panels: `type`, kI8 or kFp8
  const float* scales = nullptr;  // [out padded to 32]; kI8 and kFp8
  bool pairs = false;
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t panel_bytes = 0;
};

// Runs [run_begin, run_end) as far as rows order[row_begin, row_end) are in them, all of
// whose runs they are, and some of the heads.
struct AttendPart {
  std::int64_t run_begin = 0, run_end = 0;
  std::int64_t row_begin = 0, row_end = 0;
  std::int64_t head_begin = 0, head_end = 0;
};

struct GemmArgs {
  Matrix x = {};
  GemmPanels w = {};
  Matrix y = {};
  Epilogue epilogue = {};
};

struct CpuKernels {
  const char* name;
  // Sets of one numerics have the same bits: "fma" are those of x86-64 from AVX2 on, the
  // others stand alone.
  const char* numerics;
  bool bf16_pairs;  // wants panels for inputs of bf16 in pairs

  // Rows [row_begin, row_end) of panels [panel_begin, panel_end).
  void (*gemm)(const GemmArgs& args, std::int64_t row_begin, std::int64_t row_end,
               std::int64_t panel_begin, std::int64_t panel_end);
  void (*embed_norm)(const std::int32_t* tokens, const Matrix& table,
                     const NormWeights& norm, const Matrix& out, const Matrix& copy,
                     std::int64_t begin, std::int64_t end);
  // Leaves the states of spans of more than one row to norm_to_state.
  void (*norm_shift)(const NormShiftArgs& args, std::int64_t begin, std::int64_t end);
  void (*norm_to_state)(const Matrix& x, const NormWeights& norm,
                        const std::int32_t* rows, const std::int32_t* slots,
                        const Matrix& state, std::int64_t begin, std::int64_t end);
  // Task: input * rows + row.
  void (*rms_shift)(const RmsShiftArgs& args, std::int64_t begin, std::int64_t end);
  void (*lerp)(const LerpArgs& args, std::int64_t begin, std::int64_t end);
  void (*convert)(const Matrix& in, const Matrix& out, std::int64_t begin,
                  std::int64_t end);
  // Task: span * heads + head.
  void (*wkv)(const WkvArgs& args, std::int64_t begin, std::int64_t end);
  void (*add_norm)(const AddNormArgs& args, std::int64_t begin, std::int64_t end);
  void (*gather_rows)(const Matrix& in, const std::int64_t* index, const Matrix& out,
                      std::int64_t begin, std::int64_t end);
  void (*gather_token_rows)(const Matrix& table, const std::int32_t* tokens,
                            const Matrix& out, std::int64_t begin, std::int64_t end);
  void (*scatter_rows)(const Matrix& in, const std::int64_t* index, const Matrix& out,
                       std::int64_t begin, std::int64_t end);
  void (*scatter_quantized)(const Matrix& in, const std::int64_t* index,
                            const Matrix& out, std::uint16_t* scales, std::int64_t begin,
                            std::int64_t end);
  void (*gather_quantized)(const Matrix& in, const std::uint16_t* scales,
                           const std::int64_t* index, const Matrix& out,
                           std::int64_t begin, std::int64_t end);
  void (*rope)(const Matrix& x, const std::int64_t* position, const double* frequency,
               std::int64_t begin, std::int64_t end);
  // Heads [begin, end) of all rows.
  void (*scatter_keys)(const Matrix& k, const std::int64_t* row, const KvTiles& tiles,
                       std::int64_t begin, std::int64_t end);
  void (*scatter_values)(const Matrix& v, const std::int64_t* row, const KvTiles& tiles,
                         std::int64_t begin, std::int64_t end);
  void (*attend)(const AttendArgs& args, const AttendPart& part);
  void (*attend_finish)(const Matrix& carry, const NormWeights& norm, const Matrix& out,
                        std::int64_t begin, std::int64_t end);
};

}  // namespace goldfinch
