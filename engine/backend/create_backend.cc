#include "engine/backend/create_backend.h"

#include "engine/backend/cpu_backend.h"

namespace goldfinch {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  return CreateCpuBackend({.isa = options.cpu_isa,
                           .num_threads = options.num_threads,
                           .pin_threads = options.pin_threads});
}

}  // namespace goldfinch
