// What do the ops between products cost, and how close are they to memory and arithmetic?
//
// Argument: rows (for Attend: tokens of context; for Scatter: tokens), at the width of
// each of the two shapes of docs/performance.md. bytes_per_second counts what an op must
// read and write, FLOP/s its arithmetic where that is what it is for.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "engine/backend/cpu_backend.h"
#include "engine/check.h"
#include "engine/sampling/token_counts.h"

namespace goldfinch {
namespace {

// Memory of a backend handed out piece by piece.
class Bench {
 public:
  Bench() {
    auto backend = CreateCpuBackend({.pin_threads = true});
    GOLDFINCH_CHECK(backend.ok());
    backend_ = *std::move(backend);
    backend_->BeginStep();
  }
  ~Bench() { backend_->EndStep(); }
  Backend& operator*() { return *backend_; }

  void* Bytes(std::int64_t bytes) {
    memory_.push_back(backend_->Allocate(bytes));
    return memory_.back()->data();
  }
  Matrix Floats(std::int64_t rows, std::int64_t cols) {
    const Matrix m{Bytes(rows * cols * 4), DType::kF32, rows, cols, cols};
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < rows * cols; ++i) m.f32(0)[i] = normal(random);
    return m;
  }
  Matrix Halves(std::int64_t rows, std::int64_t cols) {
    return {Bytes(rows * cols * 2), DType::kBf16, rows, cols, cols};
  }
  template <typename T>
  T* Array(const std::vector<T>& values) {
    const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
    void* p = Bytes(bytes);
    backend_->CopyToDevice(p, values.data(), bytes);
    return static_cast<T*>(p);
  }
  // One sequence of all rows, or every row one of its own.
  RowSpans Spans(std::int64_t rows, bool single) {
    const std::int64_t count = single ? 1 : rows;
    std::vector<std::int32_t> begin(static_cast<std::size_t>(count) + 1);
    std::vector<std::int32_t> slot(static_cast<std::size_t>(count));
    std::iota(begin.begin(), begin.end(), 0);
    std::iota(slot.begin(), slot.end(), 0);
    begin.back() = static_cast<std::int32_t>(rows);
    return {static_cast<std::int32_t>(count), Array(begin), Array(slot)};
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
};

void Rate(benchmark::State& state, const char* name, double amount) {
  state.counters[name] = benchmark::Counter(
      amount, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

constexpr double kFloat = 4, kHalf = 2;

void NormShiftOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  NormShiftArgs args = {.x = bench.Floats(rows, d),
                        .norm = {bench.Floats(1, d).f32(0), bench.Floats(1, d).f32(0)},
                        .state = bench.Floats(rows, d).f32(0),
                        .spans = bench.Spans(rows, rows > 64),
                        .num_mixes = 2,
                        .mix = {bench.Floats(1, d).f32(0), bench.Floats(1, d).f32(0)},
                        .mixed = {bench.Halves(rows, d), bench.Halves(rows, d)}};
  for (auto _ : state) (*bench).NormShift(args);
  Rate(state, "bytes/s", static_cast<double>(rows * d) * (kFloat + 2 * kHalf));
}

// One sequence a row up to 64 rows (decoding), one sequence above (a prompt).
void WkvOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1), heads = d / 64;
  const bool prompt = rows > 64;
  const WkvArgs args = {.r = bench.Floats(rows, d),
                        .k = bench.Floats(rows, d),
                        .v = bench.Floats(rows, d),
                        .w = bench.Floats(rows, d),
                        .state = bench.Floats(prompt ? 1 : rows, heads * 64 * 64).f32(0),
                        .spans = bench.Spans(rows, prompt),
                        .heads = heads,
                        .y = bench.Floats(rows, d)};
  for (auto _ : state) (*bench).Wkv(args);
  const auto state_elements = static_cast<double>(rows * heads * 64 * 64);
  Rate(state, "FLOP/s", 5 * state_elements);
  if (!prompt) Rate(state, "bytes/s", 2 * kFloat * state_elements);
}

void AddNormOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  const AddNormArgs args = {
      .a = bench.Floats(rows, d),
      .b = bench.Floats(rows, d),
      .norm = {bench.Floats(1, d).f32(0), bench.Floats(1, d).f32(0)},
      .out = bench.Halves(rows, d)};
  for (auto _ : state) (*bench).AddNorm(args);
  Rate(state, "bytes/s", static_cast<double>(rows * d) * (2 * kFloat + kHalf));
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
                         .bias = bench.Floats(1, d).f32(0),
                         .a = bench.Floats(rows, d),
                         .b = bench.Floats(rows, d)};
  std::vector<Backend::Product> products;
  for (int i = 0; i < 5; ++i)
    products.push_back({bench.Halves(rows, 32), w.get(), bench.Halves(rows, d), lerp});
  for (auto _ : state) (*bench).Gemm(products);
  Rate(state, "FLOP/s", 2.0 * 5 * 32 * static_cast<double>(rows * d));
}

// One query over a context whose keys and values are expanded, in pages of 64.
void AttendOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t context = state.range(0), d = state.range(1), tiles = context / 64;
  KvTiles kv = {.type = DType::kBf16, .heads = d / 64, .page_tokens = 64};
  kv.data = bench.Bytes(tiles * kv.tile_bytes());
  std::vector<std::int32_t> tile(static_cast<std::size_t>(tiles));
  std::vector<std::int64_t> position(tile.size());
  std::iota(tile.begin(), tile.end(), 0);
  for (std::size_t i = 0; i < tile.size(); ++i)
    position[i] = static_cast<std::int64_t>(i) * 64;
  std::memset(kv.data, 0x3c, static_cast<std::size_t>(tiles * kv.tile_bytes()));
  const auto last = static_cast<std::int32_t>(tiles);
  const AttendArgs args = {.q = bench.Floats(1, d),
                           .tiles = kv,
                           .heads = kv.heads,
                           .position = bench.Array<std::int64_t>({context - 1}),
                           .span = bench.Array<std::int32_t>({0}),
                           .tile_begin = bench.Array<std::int32_t>({0, last}),
                           .tile = bench.Array(tile),
                           .tile_position = bench.Array(position),
                           .carry = bench.Floats(1, kv.heads * 66)};
  for (auto _ : state) (*bench).Attend(args);
  Rate(state, "bytes/s", static_cast<double>(tiles * kv.tile_bytes()));
}

// Keys of consecutive tokens to their tiles.
void ScatterKeysOp(benchmark::State& state) {
  Bench bench;
  const std::int64_t rows = state.range(0), d = state.range(1);
  KvTiles kv = {.type = DType::kBf16, .heads = d / 64, .page_tokens = 64};
  kv.data = bench.Bytes((rows / 64 + 1) * kv.tile_bytes());
  std::vector<std::int64_t> row(static_cast<std::size_t>(rows));
  std::iota(row.begin(), row.end(), 0);
  const std::int64_t* places = bench.Array(row);
  const Matrix k = bench.Floats(rows, d);
  for (auto _ : state) (*bench).ScatterKeys(k, places, kv);
  Rate(state, "bytes/s", static_cast<double>(rows * d) * (kFloat + kHalf));
}

// Greedy and with everything on, over a vocabulary of 65536.
void SampleOp(benchmark::State& state, bool greedy) {
  Bench bench;
  const std::int64_t rows = state.range(0);
  const Matrix logits = bench.Floats(rows, 65536);
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
  for (auto _ : state) (*bench).Sample(logits, requests);
  Rate(state, "bytes/s", kFloat * 65536 * static_cast<double>(rows));
}

void RowsAndWidths(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t d : {768, 2048})
    for (const std::int64_t rows : {1, 16, 64, 512}) bench->Args({rows, d});
  bench->UseRealTime()->MinTime(0.1);
}
void Contexts(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t d : {768, 2048})
    for (const std::int64_t tokens : {1024, 8192, 32768}) bench->Args({tokens, d});
  bench->UseRealTime()->MinTime(0.1);
}

BENCHMARK(NormShiftOp)->Apply(RowsAndWidths);
BENCHMARK(WkvOp)->Apply(RowsAndWidths);
BENCHMARK(AddNormOp)->Apply(RowsAndWidths);
BENCHMARK(MixUp)->Apply(RowsAndWidths);
BENCHMARK(AttendOp)->Apply(Contexts);
BENCHMARK(ScatterKeysOp)->Apply(RowsAndWidths);
BENCHMARK_CAPTURE(SampleOp, greedy, true)->Arg(1)->Arg(16)->UseRealTime()->MinTime(0.1);
BENCHMARK_CAPTURE(SampleOp, top_p, false)->Arg(1)->Arg(16)->UseRealTime()->MinTime(0.1);

}  // namespace
}  // namespace goldfinch

BENCHMARK_MAIN();
