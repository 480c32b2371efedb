// What do the ops between products cost, and how close are they to memory and arithmetic?
//
// Argument: rows (for Attend: tokens of context; for Scatter: tokens), at the width of
// each of the two shapes of docs/performance.md. bytes/s counts what an op must read and
// write, of_copy is its ratio to what a copy in the backend's memory reads and writes in
// the same run (printed as a rate, too), FLOP/s arithmetic where that is what an op is
// for.
//
//   op_bench [--backend=cpu|cuda] [--device=N] [flags of Google Benchmark]
//
// A device is waited for after each op, some ten microseconds: short ops look slower
// there than they are in a step.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "bench/limits.h"
#include "bench/op_inputs.h"
#include "engine/backend/create_backend.h"
#include "engine/check.h"
#include "engine/sampling/token_counts.h"

namespace goldfinch {
namespace {

BackendOptions& Options() {
  static BackendOptions options = {.pin_threads = true};
  return options;
}

class Bench {
 public:
  Bench() {
    auto backend = CreateBackend(Options());
    GOLDFINCH_CHECK(backend.ok());
    backend_ = *std::move(backend);
    backend_->Prepare(1 << 13, 65536, 64);
    inputs_ = std::make_unique<OpInputs>(*backend_);
    backend_->BeginStep();
  }
  ~Bench() { backend_->EndStep(); }
  Backend& operator*() { return *backend_; }
  OpInputs* operator->() { return inputs_.get(); }

  // Times what `op` queues.
  template <typename Op>
  void Run(benchmark::State& state, const Op& op) {
    op();  // warm
    backend_->Synchronize();
    for (auto _ : state) {
      op();
      backend_->Synchronize();
    }
    GOLDFINCH_CHECK(backend_->status().ok());
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<OpInputs> inputs_;
};

void Rate(benchmark::State& state, const char* name, double amount) {
  state.counters[name] = benchmark::Counter(
      amount, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

// What a copy reads and writes.
double CopyBandwidth() {
  static const double bandwidth = [] {
    Bench bench;
    return goldfinch::CopyBandwidth(*bench, 9);
  }();
  return bandwidth;
}

// Bytes that an op moves.
void Moves(benchmark::State& state, double bytes) {
  Rate(state, "bytes/s", bytes);
  state.counters["of_copy"] = benchmark::Counter(
      bytes / CopyBandwidth(), benchmark::Counter::kIsIterationInvariantRate);
}

constexpr double kFloat = 4, kHalf = 2;

void NormShiftOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  NormShiftArgs args = {.x = bench->Floats(rows, d),
                        .norm = {bench->Floats(1, d).f32(0), bench->Floats(1, d).f32(0)},
                        .state = bench->Floats(rows, d),
                        .spans = bench->Spans(rows, rows > 64),
                        .num_mixes = 2,
                        .mix = {bench->Floats(1, d).f32(0), bench->Floats(1, d).f32(0)},
                        .mixed = {bench->Halves(rows, d), bench->Halves(rows, d)}};
  bench.Run(state, [&] { (*bench).NormShift(args); });
  Moves(state, static_cast<double>(rows * d) * (kFloat + 2 * kHalf));
}

// A token of each of many sequences, or many tokens of one.
void WkvOp(benchmark::State& state, bool prompt) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  const WkvArgs args = bench->Wkv(rows, d, prompt);
  bench.Run(state, [&] { (*bench).Wkv(args); });
  const auto state_elements = static_cast<double>(rows * d * kHeadSize);
  Rate(state, "FLOP/s", 5 * state_elements);
  if (!prompt) Moves(state, 2 * kFloat * state_elements);
}

void AddNormOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  const AddNormArgs args = {
      .a = bench->Floats(rows, d),
      .b = bench->Floats(rows, d),
      .norm = {bench->Floats(1, d).f32(0), bench->Floats(1, d).f32(0)},
      .out = bench->Halves(rows, d)};
  bench.Run(state, [&] { (*bench).AddNorm(args); });
  Moves(state, static_cast<double>(rows * d) * (2 * kFloat + kHalf));
}

// The inner products of five mixes, with their epilogue: inputs of 32, outputs of D.
void MixUp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  const std::vector<float> weights(static_cast<std::size_t>(d * 32), 0.1f);
  const auto w = (*bench).Pack({.data = std::as_bytes(std::span(weights)).data(),
                                .rows = d,
                                .cols = 32,
                                .row_stride = 32},
                               DType::kBf16, DType::kBf16);
  const Epilogue lerp = {.finish = Finish::kLerp,
                         .bias = bench->Floats(1, d).f32(0),
                         .a = bench->Floats(rows, d),
                         .b = bench->Floats(rows, d)};
  std::vector<Backend::Product> products;
  for (int i = 0; i < 5; ++i)
    products.push_back({.x = bench->Halves(rows, 32),
                        .w = w.get(),
                        .y = bench->Halves(rows, d),
                        .epilogue = lerp});
  bench.Run(state, [&] { (*bench).Gemm(products); });
  Rate(state, "FLOP/s", 2.0 * 5 * 32 * static_cast<double>(rows * d));
}

// One query over a context whose keys and values are expanded.
void AttendOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t context = state.range(0), d = state.range(1);
  const AttendArgs args = bench->Attend({context}, d);
  bench.Run(state, [&] { (*bench).Attend(args); });
  Moves(state, 2 * kHalf * static_cast<double>(context * d));
}

// Keys and values of consecutive tokens, normed, to their tiles.
void StoreTilesOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  KvTiles kv = {.type = DType::kBf16, .heads = d / kHeadSize, .page_tokens = 64};
  kv.data = bench->Bytes((rows / 64 + 1) * kv.tile_bytes());
  std::vector<std::int64_t> row(static_cast<std::size_t>(rows));
  std::iota(row.begin(), row.end(), 0);
  const std::int64_t* places = bench->Array(row);
  const NormWeights norm = {.weight = bench->Floats(1, d).f32(0),
                            .bias = bench->Floats(1, d).f32(0)};
  const StoreTilesArgs args = {.num_layers = 1,
                               .layer = {{.k = bench->Floats(rows, d),
                                          .v = bench->Floats(rows, d),
                                          .norm_k = norm,
                                          .norm_v = norm,
                                          .tiles = kv}},
                               .row = places};
  bench.Run(state, [&] { (*bench).StoreTiles(args); });
  Moves(state, 2 * static_cast<double>(rows * d) * (kFloat + kHalf));
}

// Greedy and with everything on, over a vocabulary of 65536.
void SampleOp(benchmark::State& state, bool greedy) {
  Bench bench;
  const std::int64_t rows = state.range(0);
  const Matrix logits = bench->Floats(rows, 65536);
  SamplingParams params;
  params.temperature = greedy ? 0.0f : 0.8f;
  if (!greedy) {
    params.top_p = 0.9f;
    params.top_k = 50;
  }
  std::vector<SampledToken> tokens(static_cast<std::size_t>(rows));
  std::vector<Backend::SampleRequest> requests;
  for (std::int64_t i = 0; i < rows; ++i)
    requests.push_back(
        {.row = i, .params = &params, .out = &tokens[static_cast<std::size_t>(i)]});
  bench.Run(state, [&] { (*bench).Sample(logits, requests); });
  Moves(state, kFloat * 65536 * static_cast<double>(rows));
}

void RowsAndWidths(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t d : {768, 2048})
    for (const std::int64_t rows : {1, 16, 64, 512}) bench->Args({rows, d});
  bench->UseRealTime()->MinTime(0.1);
}
void Batches(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t d : {768, 2048})
    for (const std::int64_t rows : {1, 16, 64, 256}) bench->Args({rows, d});
  bench->UseRealTime()->MinTime(0.1);
}
void Prompts(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t d : {768, 2048})
    for (const std::int64_t rows : {64, 512, 4096}) bench->Args({rows, d});
  bench->UseRealTime()->MinTime(0.1);
}
void Contexts(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t d : {768, 2048})
    for (const std::int64_t tokens : {1024, 8192, 32768}) bench->Args({tokens, d});
  bench->UseRealTime()->MinTime(0.1);
}

BENCHMARK(NormShiftOp)->Apply(RowsAndWidths);
BENCHMARK_CAPTURE(WkvOp, decode, false)->Apply(Batches);
BENCHMARK_CAPTURE(WkvOp, prompt, true)->Apply(Prompts);
BENCHMARK(AddNormOp)->Apply(RowsAndWidths);
BENCHMARK(MixUp)->Apply(RowsAndWidths);
BENCHMARK(AttendOp)->Apply(Contexts);
BENCHMARK(StoreTilesOp)->Apply(RowsAndWidths);
BENCHMARK_CAPTURE(SampleOp, greedy, true)->Arg(1)->Arg(16)->UseRealTime()->MinTime(0.1);
BENCHMARK_CAPTURE(SampleOp, top_p, false)->Arg(1)->Arg(16)->UseRealTime()->MinTime(0.1);

// Takes --backend and --device out of the arguments; false if one makes no sense.
bool TakeOptions(int& argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument.starts_with("--backend=")) {
      argument.erase(0, argument.find('=') + 1);
      Options().kind = argument;
    } else if (argument.starts_with("--device=")) {
      argument.erase(0, argument.find('=') + 1);
      if (!absl::SimpleAtoi(argument, &Options().device)) return false;
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return true;
}

int Main(int argc, char** argv) {
  if (!TakeOptions(argc, argv)) {
    std::fprintf(stderr, "op_bench: --device takes a number\n");
    return 64;
  }
  if (const auto backend = CreateBackend(Options()); !backend.ok()) {
    std::fprintf(stderr, "op_bench: %s\n",
                 std::string(backend.status().message()).c_str());
    return 1;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace goldfinch

int main(int argc, char** argv) { return goldfinch::Main(argc, argv); }
