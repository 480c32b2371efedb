#include "engine/kernels/cpu/tables.h"

#include "absl/strings/str_cat.h"

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
#endif

namespace {

struct Choice {
  const CpuKernels* kernels;
  bool runs_here;
};

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

}  // namespace

absl::StatusOr<const CpuKernels*> SelectCpuKernels(const std::string& isa) {
  // Best first.
  const Choice choices[] = {
#if defined(__x86_64__)
    {&avx512_bf16::kKernels, HasAvx512Bf16()},
    {&avx512::kKernels, HasAvx512()},
    {&avx2::kKernels, HasAvx2()},
#endif
    {&plain::kKernels, true},
  };
  std::string names = "auto";
  for (const Choice& choice : choices) {
    absl::StrAppend(&names, ", ", choice.kernels->name);
    if (isa == "auto" && choice.runs_here) return choice.kernels;
    if (isa != choice.kernels->name) continue;
    if (choice.runs_here) return choice.kernels;
    return absl::FailedPreconditionError(
        absl::StrCat("cpu_isa is ", isa, ", which this machine does not run"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cpu_isa is ", isa, "; it must be one of ", names));
}

}  // namespace goldfinch
