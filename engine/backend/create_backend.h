// Makes the backend an engine runs on. create_backend.cc is the one file that knows
// which backends this build has.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace goldfinch {

struct BackendOptions {
  std::string cpu_isa = "auto";
  int num_threads = 0;       // 0: one a hardware thread
  bool pin_threads = false;  // each to a processor, where there are as many of them
};

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace goldfinch
