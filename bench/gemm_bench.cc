// Is our matrix product as fast as oneDNN's, at every number of rows?
//
// Arguments: rows, in, out. Inputs and weights of one type, float32 output, all hardware
// threads for both; weights are packed beforehand in each library's own layout. FLOP/s is
// the counter. oneDNN has no product of bf16 inputs and int8 or fp8 weights.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <dnnl.hpp>
#include <memory>
#include <vector>

#include "engine/backend/cpu_backend.h"
#include "engine/bf16.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

struct Problem {
  Problem(const benchmark::State& state, DType element)
      : type(element), rows(state.range(0)), in(state.range(1)), out(state.range(2)) {
    x = Filled(rows * in, 0.5f);
    w = Filled(out * in, 0.25f);
    y.assign(static_cast<std::size_t>(rows * out), 0.0f);
  }
  std::vector<std::byte> Filled(std::int64_t count, float value) const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(count * SizeOf(type)));
    const std::uint16_t narrow = RoundToBf16(value);
    for (std::size_t i = 0; i < bytes.size(); i += static_cast<std::size_t>(SizeOf(type)))
      std::memcpy(bytes.data() + i,
                  type == DType::kF32 ? static_cast<const void*>(&value) : &narrow,
                  static_cast<std::size_t>(SizeOf(type)));
    return bytes;
  }
  void Count(benchmark::State& state) const {
    state.counters["FLOP/s"] = benchmark::Counter(
        2.0 * static_cast<double>(rows * in * out),
        benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  }

  const DType type;
  const std::int64_t rows, in, out;
  std::vector<std::byte> x, w;
  std::vector<float> y;
};

void Ours(benchmark::State& state, DType type, DType storage) {
  Problem p(state, type);
  auto backend = CreateCpuBackend({.pin_threads = true});
  GOLDFINCH_CHECK(backend.ok());
  const auto packed = (*backend)->Pack(
      {.data = p.w.data(),
       .stored = type == DType::kF32 ? StoredType::kF32 : StoredType::kBf16,
       .rows = p.out,
       .cols = p.in,
       .row_stride = p.in},
      type, storage);
  const Matrix x{
      .data = p.x.data(), .type = type, .rows = p.rows, .cols = p.in, .stride = p.in};
  const Matrix y{.data = p.y.data(),
                 .type = DType::kF32,
                 .rows = p.rows,
                 .cols = p.out,
                 .stride = p.out};
  (*backend)->BeginStep();
  for (auto _ : state) (*backend)->Gemm({.x = x, .w = packed.get(), .y = y});
  (*backend)->EndStep();
  p.Count(state);
}

void OneDnn(benchmark::State& state, DType type) {
  using dnnl::memory;
  Problem p(state, type);
  const auto element =
      type == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::desc x_desc({p.rows, p.in}, element, memory::format_tag::ab);
  // W is [out, in]: its transpose is read in place and reordered once.
  const memory::desc w_plain({p.in, p.out}, element, memory::format_tag::ba);
  const memory::desc w_any({p.in, p.out}, element, memory::format_tag::any);
  const memory::desc y_desc({p.rows, p.out}, memory::data_type::f32,
                            memory::format_tag::ab);
  const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(x_desc, w_any, y_desc),
                                          engine, /*allow_empty=*/true);
  if (!desc) return state.SkipWithError("not on this processor");  // bf16 on AVX2
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

BENCHMARK_CAPTURE(Ours, bf16, DType::kBf16, DType::kBf16)->Apply(Shapes);
BENCHMARK_CAPTURE(OneDnn, bf16, DType::kBf16)->Apply(Shapes);
BENCHMARK_CAPTURE(Ours, f32, DType::kF32, DType::kF32)->Apply(Shapes);
BENCHMARK_CAPTURE(OneDnn, f32, DType::kF32)->Apply(Shapes);
BENCHMARK_CAPTURE(Ours, int8, DType::kBf16, DType::kI8)->Apply(Shapes);
BENCHMARK_CAPTURE(Ours, fp8, DType::kBf16, DType::kFp8)->Apply(Shapes);

}  // namespace
}  // namespace goldfinch

BENCHMARK_MAIN();
