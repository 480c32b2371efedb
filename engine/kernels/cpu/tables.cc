#include "engine/kernels/cpu/tables.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/kernels/cpu/gemm_trial.h"

namespace goldfinch {

namespace plain {
extern const CpuKernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const CpuKernels kKernels;
}
namespace avx512 {
extern const CpuKernels kKernels;
}
namespace avx512_bf16 {
void Gemm(const GemmArgs& args, std::int64_t row_begin, std::int64_t row_end,
          std::int64_t panel_begin, std::int64_t panel_end);
}
#elif defined(__aarch64__)
namespace neon {
extern const CpuKernels kKernels;
}
#endif

namespace {

bool Always() { return true; }
#if defined(__x86_64__)
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
         __builtin_cpu_supports("f16c") != 0;
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0;
}
bool HasAvx512Bf16() { return HasAvx512() && __builtin_cpu_supports("avx512bf16") != 0; }

CpuKernels WithDotProducts() {
  CpuKernels kernels = avx512::kKernels;
  kernels.name = "avx512_bf16";
  kernels.bf16_pairs = true;
  kernels.gemm = avx512_bf16::Gemm;
  return kernels;
}

// The instruction for pairs of bf16 is twice as fast as two fused products on some
// processors, and takes twice as long on others. As it is specified it has the same bits;
// where it had not, its set would have a numerics of its own, and would be the best.
struct DotProducts {
  DotProducts() : kernels(WithDotProducts()) {
    const GemmTrial trial = TryGemm(kernels, avx512::kKernels);
    if (!trial.same_bits) kernels.numerics = kernels.name;
    pays = !trial.same_bits || trial.ratio < 1.1;
  }
  CpuKernels kernels;
  bool pays;
};
const DotProducts& TheDotProducts() {
  static const DotProducts the;
  return the;
}
#endif

struct Choice {
  const char* name;
  bool (*runs_here)();
  const CpuKernels& (*kernels)();  // asked only where it runs
  bool (*pays_here)() = Always;    // more than those before it; the same
};

// The best last.
const Choice kChoices[] = {
    {"plain", Always, []() -> const CpuKernels& { return plain::kKernels; }},
#if defined(__x86_64__)
    {"avx2", HasAvx2, []() -> const CpuKernels& { return avx2::kKernels; }},
    {"avx512", HasAvx512, []() -> const CpuKernels& { return avx512::kKernels; }},
    {"avx512_bf16", HasAvx512Bf16,
     []() -> const CpuKernels& { return TheDotProducts().kernels; },
     [] { return TheDotProducts().pays; }},
#elif defined(__aarch64__)
    {"neon", Always, []() -> const CpuKernels& { return neon::kKernels; }},
#endif
};

}  // namespace

std::vector<std::string> CpuIsas() {
  std::vector<std::string> names;
  for (const Choice& choice : kChoices) names.emplace_back(choice.name);
  return names;
}

absl::StatusOr<const CpuKernels*> SelectCpuKernels(const std::string& isa) {
  const CpuKernels* best = nullptr;
  for (const Choice& choice : kChoices) {
    if (isa == "auto") {
      if (choice.runs_here() && choice.pays_here()) best = &choice.kernels();
    } else if (isa == choice.name) {
      if (choice.runs_here()) return &choice.kernels();
      return absl::FailedPreconditionError(
          absl::StrCat("cpu_isa is ", isa, ", which this machine does not run"));
    }
  }
  if (best != nullptr) return best;
  return absl::InvalidArgumentError(absl::StrCat(
      "cpu_isa is ", isa, "; it must be one of auto, ", absl::StrJoin(CpuIsas(), ", ")));
}

}  // namespace goldfinch
