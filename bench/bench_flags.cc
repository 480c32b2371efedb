#include "bench/bench_flags.h"

#include <CLI/CLI.hpp>

#include "engine/model/dtype_names.h"

namespace goldfinch {

std::optional<int> ParseFlags(int argc, char** argv, BenchFlags& flags) {
  CLI::App app("Measures the engine against what the machine allows.");
  const auto add_switch = [&app](const char* name, bool& value) {
    app.add_option(name, value)
        ->check(CLI::IsMember({"on", "off"}))
        ->type_name("TEXT")
        ->default_str(value ? "on" : "off");
  };
  app.add_option("--shape", flags.shape, "LAYERSxWIDTH of a random model")
      ->capture_default_str();
  app.add_option("--model", flags.model, "a model directory instead of --shape");
  app.add_option("--cases", flags.cases, "only cases whose name matches this regex")
      ->capture_default_str();
  app.add_option("--compute_dtype", flags.compute_dtype)
      ->check(CLI::IsMember(ComputeDtypes()))
      ->capture_default_str();
  app.add_option("--weight_dtype", flags.weight_dtype, "auto: the compute type")
      ->check(CLI::IsMember(WeightDtypes()))
      ->capture_default_str();
  app.add_option("--cache_dtype", flags.cache_dtype, "auto: the compute type")
      ->check(CLI::IsMember(CacheDtypes()))
      ->capture_default_str();
  app.add_option("--backend", flags.backend,
                 "cpu, cuda or auto; limits are those of what it runs on")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  app.add_option("--device", flags.device, "number of the CUDA device")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  add_switch("--cuda_graphs", flags.cuda_graphs);
  add_switch("--cuda_overlap", flags.cuda_overlap);
  add_switch("--cublas", flags.cublas);
  add_switch("--run_ahead", flags.run_ahead);
  add_switch("--batch_invariant", flags.batch_invariant);
  app.add_option("--cpu_isa", flags.cpu_isa)->capture_default_str();
  app.add_option("--case_seconds", flags.case_seconds, "skip what would take longer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "0: one a hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--vocab_table", flags.vocab_table, "keep the vocabulary's part of keys");
  app.add_flag("--float_threads", flags.float_threads, "do not pin the engine's threads");
  app.add_option("--step_tokens", flags.step_tokens,
                 "prompt tokens in a step (default: as the server's)")
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--sessions", flags.sessions,
                 "resident at once in the case of that name")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--memory_bytes", flags.memory_bytes, "skip what needs more")
      ->capture_default_str();
  app.add_flag("--json", flags.json, "only JSON lines on stdout");
  app.add_flag("--long_contexts", flags.long_contexts, "decode at 128k tokens too");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return std::nullopt;
}

}  // namespace goldfinch
