#include "engine/backend/create_backend.h"

#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu_backend.h"
#if defined(GOLDFINCH_HAS_CUDA)
#include "engine/backend/cuda_backend.h"
#endif

namespace goldfinch {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> CreateCuda(
    [[maybe_unused]] const BackendOptions& options) {
#if defined(GOLDFINCH_HAS_CUDA)
  return cuda::CreateCudaBackend({.device = options.device,
                                  .graphs = options.cuda_graphs,
                                  .overlap = options.cuda_overlap,
                                  .cublas = options.cublas,
                                  .batch_invariant = options.batch_invariant});
#else
  return absl::UnavailableError("this build has no CUDA backend");
#endif
}

}  // namespace

bool MeansNoDevice(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsFailedPrecondition(status);
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.kind == "cuda") return CreateCuda(options);
  if (options.kind != "cpu" && options.kind != "auto")
    return absl::InvalidArgumentError(
        absl::StrCat("backend is ", options.kind, "; it must be cpu, cuda or auto"));
  if (options.kind == "auto")
    if (auto cuda = CreateCuda(options); !MeansNoDevice(cuda.status())) return cuda;
  try {
    return CreateCpuBackend({.isa = options.cpu_isa,
                             .num_threads = options.num_threads,
                             .pin_threads = options.pin_threads});
  } catch (const std::system_error&) {
    return absl::ResourceExhaustedError(
        "the system starts no more threads; lower the number of threads");
  }
}

}  // namespace goldfinch
