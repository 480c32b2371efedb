// What goldfinch-bench is told.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace goldfinch {

struct BenchFlags {
  std::string shape = "12x768";
  std::string model;
  std::string cases = ".*";
  std::string compute_dtype = "bf16";
  std::string weight_dtype = "auto";
  std::string cache_dtype = "auto";
  std::string backend = "cpu";
  int device = 0;
  bool cuda_graphs = true;
  bool cuda_overlap = true;
  bool cublas = true;
  bool run_ahead = true;
  bool batch_invariant = true;
  std::string cpu_isa = "auto";
  double case_seconds = 60;
  int threads = 0;
  std::int32_t step_tokens = 0;
  std::int64_t memory_bytes = std::int64_t{16} << 30;
  std::int64_t sessions = 16;
  bool vocab_table = false;
  bool float_threads = false;
  bool json = false;
  bool long_contexts = false;
};

// The code to exit with, if that is all there is to do: after --help, or an error that
// was printed.
std::optional<int> ParseFlags(int argc, char** argv, BenchFlags& flags);

}  // namespace goldfinch
