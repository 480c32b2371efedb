// `goldfinch verify`: the model's arithmetic against recorded numbers, in process.
#pragma once

#include <cstdint>
#include <string>

namespace goldfinch {

inline constexpr std::int32_t kMaxVerifyBatch = 4096;

struct VerifyOptions {
  std::string model_dir;
  std::string expected_path;  // expected.safetensors
  std::string compute_dtype;  // "", "f32" or "bf16"
  std::string backend = "cpu";  // "cpu", "cuda" or "auto"
  std::int32_t device = 0;      // number of the CUDA device
  std::string cpu_isa = "auto";
  std::int64_t chunk = 0;    // tokens of a prompt per step; 0: the whole prompt
  // Sequences in a step: the one checked and batch-1 others. In [1, kMaxVerifyBatch].
  std::int32_t batch = 1;
  std::int32_t threads = 0;  // 0: one a CPU it may use
};

// Prints max_abs_error and greedy_agreement to stdout, problems to stderr. Returns the
// exit code: 0 when everything is within tolerance (2e-3 in f32, 3e-2 in bf16), else 1.
int RunVerify(const VerifyOptions& options);

}  // namespace goldfinch
