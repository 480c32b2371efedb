// The table of this instruction set's kernels; `tables.h` declares it to the backend.
#include "engine/kernels/cpu/kernels_isa.h"

namespace goldfinch::GOLDFINCH_ISA {

#define GOLDFINCH_STRING_(x) #x
#define GOLDFINCH_STRING(x) GOLDFINCH_STRING_(x)

extern const CpuKernels kKernels;
const CpuKernels kKernels = {
    .name = GOLDFINCH_STRING(GOLDFINCH_ISA),
#if defined(__AVX2__)
    .numerics = "fma",
#else
    .numerics = GOLDFINCH_STRING(GOLDFINCH_ISA),
#endif
    .bf16_pairs = false,
    .gemm = Gemm,
    .embed_norm = EmbedNorm,
    .norm_shift = NormShift,
    .norm_to_state = NormToState,
    .rms_shift = RmsShift,
    .lerp = Lerp,
    .convert = Convert,
    .wkv = Wkv,
    .add_norm = AddNorm,
    .gather_rows = GatherRows,
    .gather_token_rows = GatherTokenRows,
    .scatter_rows = ScatterRows,
    .scatter_quantized = ScatterQuantized,
    .gather_quantized = GatherQuantized,
    .rope = Rope,
    .scatter_keys = ScatterKeys,
    .scatter_values = ScatterValues,
    .attend = Attend,
    .attend_finish = AttendFinish,
};

}  // namespace goldfinch::GOLDFINCH_ISA
