// `goldfinch perplexity`: how well a model predicts a text, in process.
#pragma once

#include <cstdint>
#include <string>

namespace goldfinch {

inline constexpr std::int64_t kMaxPerplexityWindow = 1 << 20;

struct PerplexityOptions {
  std::string model_dir;
  std::string text_path;              // "-": standard input
  std::string compute_dtype;          // "", "f32" or "bf16"
  std::string weight_dtype = "auto";  // "auto", "int8" or "fp8"
  std::string cache_dtype = "auto";   // "auto" or "int8"
  std::string backend = "cpu";  // "cpu", "cuda" or "auto"
  std::int32_t device = 0;      // number of the CUDA device
  std::string cpu_isa = "auto";
  // Tokens predicted from an empty context each; in [1, kMaxPerplexityWindow].
  std::int64_t window = 1024;
  std::int64_t max_tokens = 0;  // of the text; 0: all
  std::int32_t threads = 0;     // 0: one a CPU it may use
};

// Cuts the text into windows, each starting after an end-of-text token, and prints the
// mean loss a token (nats), its exponential, and the bits a byte. Returns the exit code:
// 2 (kUsageExit) when the text is not UTF-8.
int RunPerplexity(const PerplexityOptions& options);

}  // namespace goldfinch
