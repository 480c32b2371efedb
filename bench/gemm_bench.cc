// Is our matrix product as fast as oneDNN's, at every number of rows?
//
// Arguments: rows, in, out. bf16 inputs, float32 output, all hardware threads for both;
// weights are packed beforehand in each library's own layout. GFLOP/s is the counter.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <dnnl.hpp>
#include <memory>
#include <vector>

#include "engine/backend/cpu_backend.h"
#include "engine/bf16.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

struct Problem {
  explicit Problem(const benchmark::State& state)
      : rows(state.range(0)), in(state.range(1)), out(state.range(2)) {
    x.assign(static_cast<std::size_t>(rows * in), RoundToBf16(0.5f));
    w.assign(static_cast<std::size_t>(out * in), RoundToBf16(0.25f));
    y.assign(static_cast<std::size_t>(rows * out), 0.0f);
  }
  void Count(benchmark::State& state) const {
    state.counters["FLOP/s"] = benchmark::Counter(
        2.0 * static_cast<double>(rows * in * out),
        benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
    state.counters["weight_bytes/s"] = benchmark::Counter(
        2.0 * static_cast<double>(in * out),
        benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  }

  const std::int64_t rows, in, out;
  std::vector<std::uint16_t> x, w;
  std::vector<float> y;
};

void Ours(benchmark::State& state) {
  Problem p(state);
  auto backend = CreateCpuBackend({});
  GOLDFINCH_CHECK(backend.ok());
  const auto packed = (*backend)->Pack({.data = std::as_bytes(std::span(p.w)).data(),
                                        .stored = StoredType::kBf16,
                                        .rows = p.out,
                                        .cols = p.in,
                                        .row_stride = p.in},
                                       DType::kBf16, DType::kBf16);
  const Matrix x{p.x.data(), DType::kBf16, p.rows, p.in, p.in};
  const Matrix y{p.y.data(), DType::kF32, p.rows, p.out, p.out};
  for (auto _ : state) (*backend)->Gemm({x, packed.get(), y});
  p.Count(state);
}

void OneDnn(benchmark::State& state) {
  using dnnl::memory;
  Problem p(state);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::desc x_desc({p.rows, p.in}, memory::data_type::bf16,
                            memory::format_tag::ab);
  // W is [out, in]: its transpose is read in place and reordered once.
  const memory::desc w_plain({p.in, p.out}, memory::data_type::bf16,
                             memory::format_tag::ba);
  const memory::desc w_any({p.in, p.out}, memory::data_type::bf16,
                           memory::format_tag::any);
  const memory::desc y_desc({p.rows, p.out}, memory::data_type::f32,
                            memory::format_tag::ab);
  const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(x_desc, w_any, y_desc),
                                          engine);
  memory x(x_desc, engine, p.x.data()), w(w_plain, engine, p.w.data());
  memory y(y_desc, engine, p.y.data()), packed(desc.weights_desc(), engine);
  dnnl::reorder(w, packed).execute(stream, w, packed);
  const dnnl::matmul matmul(desc);
  for (auto _ : state) {
    matmul.execute(stream,
                   {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, y}});
    stream.wait();
  }
  p.Count(state);
}

// The square and the two FFN products of the two shapes of docs/performance.md.
void Shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t rows : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512})
    for (const auto& [in, out] :
         {std::pair{768, 2688}, {2688, 768}, {2048, 7168}, {7168, 2048}, {2048, 2048}})
      bench->Args({rows, in, out});
  bench->UseRealTime()->MinTime(0.1);
}

BENCHMARK(Ours)->Apply(Shapes);
BENCHMARK(OneDnn)->Apply(Shapes);

}  // namespace
}  // namespace goldfinch

BENCHMARK_MAIN();
