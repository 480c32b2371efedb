#include "engine/kernels/cpu/tables.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

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
extern const CpuKernels kKernels;
}
#elif defined(__aarch64__)
namespace neon {
extern const CpuKernels kKernels;
}
#endif

namespace {

struct Choice {
  const CpuKernels& kernels;
  bool (*runs_here)();
};

bool Always() { return true; }
#if defined(__x86_64__)
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0;
}
bool HasAvx512Bf16() { return HasAvx512() && __builtin_cpu_supports("avx512bf16") != 0; }
#endif

// The best last.
const Choice kChoices[] = {
    {plain::kKernels, Always},
#if defined(__x86_64__)
    {avx2::kKernels, HasAvx2},
    {avx512::kKernels, HasAvx512},
    {avx512_bf16::kKernels, HasAvx512Bf16},
#elif defined(__aarch64__)
    {neon::kKernels, Always},
#endif
};

}  // namespace

std::vector<std::string> CpuIsas() {
  std::vector<std::string> names;
  for (const Choice& choice : kChoices) names.emplace_back(choice.kernels.name);
  return names;
}

absl::StatusOr<const CpuKernels*> SelectCpuKernels(const std::string& isa) {
  const CpuKernels* best = nullptr;
  for (const Choice& choice : kChoices) {
    const bool runs_here = choice.runs_here();
    if (runs_here) best = &choice.kernels;
    if (isa != choice.kernels.name) continue;
    if (runs_here) return best;
    return absl::FailedPreconditionError(
        absl::StrCat("cpu_isa is ", isa, ", which this machine does not run"));
  }
  if (isa == "auto") return best;
  return absl::InvalidArgumentError(absl::StrCat(
      "cpu_isa is ", isa, "; it must be one of auto, ", absl::StrJoin(CpuIsas(), ", ")));
}

}  // namespace goldfinch
