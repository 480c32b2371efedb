#include "engine/backend/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu_pack.h"
#include "engine/check.h"
#include "engine/kernels/cpu/tables.h"
#include "engine/sampling/sample_row.h"
#include "engine/sync/thread_pool.h"

namespace goldfinch {
namespace {

// Raised whenever a change of ours changes bits.
constexpr int kKernelVersion = 1;

// Elements of work below which waking another thread costs more than it saves.
constexpr std::int64_t kGrainElements = 16384;

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuKernels& kernels, int num_threads)
      : kernels_(kernels), pool_(num_threads) {}

  std::string numerics() const override {
    return absl::StrCat("cpu-", kernels_.name, "-v", kKernelVersion);
  }

  std::unique_ptr<DeviceMemory> Allocate(std::int64_t bytes) override {
    return AllocateHostMemory(bytes);
  }
  void CopyToDevice(void* device, const void* host, std::int64_t bytes) override {
    std::memcpy(device, host, static_cast<std::size_t>(bytes));
  }
  void CopyToHost(void* host, const void* device, std::int64_t bytes) override {
    std::memcpy(host, device, static_cast<std::size_t>(bytes));
  }
  void CopyOnDevice(void* to, const void* from, std::int64_t bytes) override {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  void Zero(void* device, std::int64_t bytes) override {
    std::memset(device, 0, static_cast<std::size_t>(bytes));
  }
  void Synchronize() override {}

  std::unique_ptr<PackedWeights> Pack(const HostMatrix& weights, DType type,
                                      DType storage) override {
    const bool pairs = type == DType::kBf16 && kernels_.bf16_pairs;
    return PackForCpu(weights, type, storage, pairs, pool_);
  }

  void Gemm(const Matrix& x, const PackedWeights& weights, const Matrix& y) override;
  void GemmBatch(std::span<const Product> products) override;

  void EmbedNorm(const std::int32_t* tokens, const Matrix& table, const NormWeights& norm,
                 const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.embed_norm(tokens, table, norm, out, begin, end);
    });
  }
  void NormShift(const Matrix& x, const NormWeights& norm, float* state,
                 const RowSpans& spans, const Matrix& cur, const Matrix& prev) override;
  void NormToState(const Matrix& x, const NormWeights& norm, const std::int32_t* rows,
                   const std::int32_t* slots, std::int64_t count, float* state) override {
    pool_.ParallelFor(count, RowGrain(x.cols), [&](auto begin, auto end) {
      kernels_.norm_to_state(x, norm, rows, slots, state, begin, end);
    });
  }
  void Lerp(const Matrix& cur, const Matrix& prev, const float* mix, const Matrix& delta,
            const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.lerp(cur, prev, mix, delta, out, begin, end);
    });
  }
  void Activate(Activation f, const Matrix& in, const Matrix& out) override {
    ForRows(out,
            [&](auto begin, auto end) { kernels_.activate(f, in, out, begin, end); });
  }
  void Decay(const Matrix& d, const float* bias, const Matrix& k) override {
    ForRows(d, [&](auto begin, auto end) { kernels_.decay(d, bias, k, begin, end); });
  }
  void Wkv(const WkvArgs& args) override {
    pool_.ParallelFor(args.spans.count * args.heads, 2,
                      [&](auto begin, auto end) { kernels_.wkv(args, begin, end); });
  }
  void AddNorm(const AddNormArgs& args) override {
    ForRows(args.out, [&](auto begin, auto end) { kernels_.add_norm(args, begin, end); });
  }
  void RmsNorm(const Matrix& in, const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) { kernels_.rms_norm(in, out, begin, end); });
  }
  void Add(const Matrix& x, const Matrix& y) override {
    ForRows(x, [&](auto begin, auto end) { kernels_.add(x, y, begin, end); });
  }
  void GatedAdd(const Matrix& x, const Matrix& r, const Matrix& y) override {
    ForRows(x, [&](auto begin, auto end) { kernels_.gated_add(x, r, y, begin, end); });
  }
  void GatherRows(const Matrix& in, const std::int64_t* index,
                  const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.gather_rows(in, index, out, begin, end);
    });
  }
  void ScatterRows(const Matrix& in, const std::int64_t* index,
                   const Matrix& out) override {
    ForRows(in, [&](auto begin, auto end) {
      kernels_.scatter_rows(in, index, out, begin, end);
    });
  }
  void ScatterTokens(const std::int32_t* from, const std::int64_t* index,
                     std::int64_t count, const TokenStore& to) override {
    for (std::int64_t i = 0; i < count; ++i) {
      if (to.narrow)
        static_cast<std::uint16_t*>(to.data)[index[i]] =
            static_cast<std::uint16_t>(from[i]);
      else
        static_cast<std::int32_t*>(to.data)[index[i]] = from[i];
    }
  }
  void GatherTokens(const TokenStore& from, const std::int64_t* index, std::int64_t count,
                    std::int32_t* to) override {
    for (std::int64_t i = 0; i < count; ++i)
      to[i] = from.narrow ? static_cast<const std::uint16_t*>(from.data)[index[i]]
                          : static_cast<const std::int32_t*>(from.data)[index[i]];
  }
  void ScatterQuantized(const Matrix& in, const std::int64_t* index, const Matrix& out,
                        std::uint16_t* scales) override {
    ForRows(in, [&](auto begin, auto end) {
      kernels_.scatter_quantized(in, index, out, scales, begin, end);
    });
  }
  void GatherQuantized(const Matrix& in, const std::uint16_t* scales,
                       const std::int64_t* index, const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.gather_quantized(in, scales, index, out, begin, end);
    });
  }
  void Rope(const Matrix& x, const std::int64_t* position,
            const double* frequency) override {
    ForRows(x, [&](auto begin, auto end) {
      kernels_.rope(x, position, frequency, begin, end);
    });
  }
  void Attend(const AttendArgs& args) override {
    pool_.ParallelFor(args.q.rows * args.heads, 1,
                      [&](auto begin, auto end) { kernels_.attend(args, begin, end); });
  }
  void AttendFinish(const Matrix& carry, std::int64_t heads, const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.attend_finish(carry, heads, out, begin, end);
    });
  }

  void Sample(const Matrix& logits, std::span<const SampleRequest> requests) override;
  void Score(const Matrix& logits, std::span<const ScoreRequest> requests) override;

 private:
  static std::int64_t RowGrain(std::int64_t cols) {
    return std::max<std::int64_t>(1, kGrainElements / std::max<std::int64_t>(1, cols));
  }
  template <typename Body>
  void ForRows(const Matrix& m, const Body& body) {
    pool_.ParallelFor(m.rows, RowGrain(m.cols), body);
  }

  const CpuKernels& kernels_;
  ThreadPool pool_;
  std::vector<SampleScratch> scratch_;  // one a piece of a sampling loop
};

void CpuBackend::Gemm(const Matrix& x, const PackedWeights& weights, const Matrix& y) {
  const Product product{x, &weights, y};
  GemmBatch(std::span(&product, 1));
}

void CpuBackend::GemmBatch(std::span<const Product> products) {
  GOLDFINCH_CHECK(!products.empty() && products.size() <= kMaxProducts);
  const std::int64_t rows = products[0].x.rows;
  if (rows == 0) return;
  // Task t is panel t of all the panels of all products; first[i] is where those of
  // product i begin.
  std::int64_t first[kMaxProducts + 1] = {};
  std::int64_t work = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const auto& [x, weights, y] = products[i];
    const GemmPanels& w = static_cast<const CpuPackedWeights&>(*weights).panels();
    GOLDFINCH_CHECK(x.type == w.type && x.cols == w.in && y.cols == w.out &&
                    x.rows == rows && y.rows == rows && y.type == DType::kF32 &&
                    w.in > 0);
    const std::int64_t panels = (w.out + kPanelColumns - 1) / kPanelColumns;
    first[i + 1] = first[i] + panels;
    work += panels * w.in * kPanelColumns;
  }
  const std::int64_t panels = first[products.size()];
  // Few panels: cut the rows too, so that a narrow product of many rows has pieces for
  // all threads. 96 is a multiple of every kernel's block of rows.
  constexpr std::int64_t kRowPiece = 96;
  const bool narrow = panels < 8 * pool_.num_threads();
  const std::int64_t row_piece = narrow ? std::min(kRowPiece, rows) : rows;
  const std::int64_t row_pieces = (rows + row_piece - 1) / row_piece;
  const std::int64_t task_work = std::max<std::int64_t>(1, work / panels * row_piece);
  const std::int64_t grain = std::max<std::int64_t>(1, 4 * kGrainElements / task_work);
  pool_.ParallelFor(panels * row_pieces, grain, [&](auto begin, auto end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t panel = task % panels, row = task / panels * row_piece;
      std::size_t i = 0;
      while (panel >= first[i + 1]) ++i;
      const Product& p = products[i];
      kernels_.gemm(p.x, static_cast<const CpuPackedWeights&>(*p.w).panels(), p.y, row,
                    std::min(row + row_piece, rows), panel - first[i],
                    panel - first[i] + 1);
    }
  });
}

void CpuBackend::NormShift(const Matrix& x, const NormWeights& norm, float* state,
                           const RowSpans& spans, const Matrix& cur, const Matrix& prev) {
  ForRows(cur,
          [&](auto begin, auto end) { kernels_.norm_rows(x, norm, cur, begin, end); });
  const std::size_t bytes = static_cast<std::size_t>(cur.cols) * sizeof(float);
  const std::int64_t grain = std::max<std::int64_t>(1, spans.count / 8);
  pool_.ParallelFor(spans.count, grain, [&](auto begin, auto end) {
    for (std::int64_t span = begin; span < end; ++span) {
      const std::int64_t first = spans.begin[span], last = spans.begin[span + 1] - 1;
      GOLDFINCH_CHECK(first <= last);
      float* carried = state + spans.slot[span] * cur.cols;
      std::memcpy(prev.f32(first), carried, bytes);
      for (std::int64_t row = first; row < last; ++row)
        std::memcpy(prev.f32(row + 1), cur.f32(row), bytes);
      std::memcpy(carried, cur.f32(last), bytes);
    }
  });
}

void CpuBackend::Sample(const Matrix& logits, std::span<const SampleRequest> requests) {
  const auto vocab = static_cast<std::int32_t>(logits.cols);
  while (scratch_.size() < static_cast<std::size_t>(pool_.num_threads()))
    scratch_.emplace_back(vocab);
  const auto count = static_cast<std::int64_t>(requests.size());
  const auto pieces = static_cast<std::int64_t>(scratch_.size());
  // One scratch a piece, so the loop is over pieces and not over requests.
  pool_.ParallelFor(std::min(pieces, count), 1, [&](auto begin, auto end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      for (std::int64_t i = piece; i < count; i += pieces) {
        const SampleRequest& r = requests[static_cast<std::size_t>(i)];
        const std::span<const float> row(logits.f32(r.row),
                                         static_cast<std::size_t>(vocab));
        SampleRow(row, *r.params, r.counts, r.num_generated,
                  scratch_[static_cast<std::size_t>(piece)], *r.out);
      }
    }
  });
}

void CpuBackend::Score(const Matrix& logits, std::span<const ScoreRequest> requests) {
  pool_.ParallelFor(static_cast<std::int64_t>(requests.size()), 1,
                    [&](auto begin, auto end) {
                      for (std::int64_t i = begin; i < end; ++i) {
                        const ScoreRequest& r = requests[static_cast<std::size_t>(i)];
                        const std::span<const float> row(
                            logits.f32(r.row), static_cast<std::size_t>(logits.cols));
                        *r.out = ScoreRow(row, r.target);
                      }
                    });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const CpuBackendOptions& options) {
  auto kernels = SelectCpuKernels(options.isa);
  if (!kernels.ok()) return kernels.status();
  int threads = options.num_threads;
  if (threads == 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  return std::make_unique<CpuBackend>(**kernels, std::max(1, threads));
}

}  // namespace goldfinch
