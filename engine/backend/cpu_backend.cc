#include "engine/backend/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu_pack.h"
#include "engine/check.h"
#include "engine/host_bytes.h"
#include "engine/kernels/cpu/tables.h"
#include "engine/sampling/sample_row.h"
#include "engine/sync/thread_pool.h"
#include "engine/sync/uneven_parts.h"
#include "engine/sync/usable_cpus.h"

namespace goldfinch {
namespace {

// Raised whenever a change of ours changes bits.
constexpr int kKernelVersion = 3;

// Elements of work below which waking another thread costs more than it saves.
constexpr std::int64_t kGrainElements = 16384;

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuKernels& kernels, int num_threads, bool pin_threads)
      : kernels_(kernels), pool_(num_threads, pin_threads) {}

  std::string numerics() const override {
    return absl::StrCat("cpu-", kernels_.numerics, "-v", kKernelVersion);
  }

  std::string kernels() const override { return kernels_.name; }

  std::unique_ptr<DeviceMemory> Allocate(std::int64_t bytes) override {
    return AllocateHostMemory(bytes);
  }
  void CopyToDevice(void* device, const void* host, std::int64_t bytes) override {
    // Sessions on their way in. What a step reads at once is less, but for some hundred
    // rows of prompts, which take far longer than that.
    constexpr std::int64_t kManyBytes = 4096;
    Copy(device, host, bytes, kManyBytes);
  }
  void CopyToHost(void* host, const void* device, std::int64_t bytes) override {
    // Whoever reads less at once looks at it at once.
    constexpr std::int64_t kManyBytes = 256 << 10;
    Copy(host, device, bytes, kManyBytes);
  }
  void CopyOnDevice(void* to, const void* from, std::int64_t bytes) override {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  void Zero(void* device, std::int64_t bytes) override {
    std::memset(device, 0, static_cast<std::size_t>(bytes));
  }
  void Synchronize() override {}
  void Prepare(std::int64_t rows, std::int64_t vocab_size, std::int64_t) override {
    attend_roots_.reserve(static_cast<std::size_t>(rows));
    attend_parts_.reserve(static_cast<std::size_t>(rows));
    parts_.Reserve(rows);
    while (scratch_.size() < static_cast<std::size_t>(pool_.num_threads()))
      scratch_.emplace_back(static_cast<std::int32_t>(vocab_size));
  }
  void BeginStep() override { pool_.BeginStep(); }
  void EndStep() override { pool_.EndStep(); }

  std::unique_ptr<PackedWeights> Pack(const HostMatrix& weights, DType type,
                                      DType storage) override {
    const bool pairs = type == DType::kBf16 && kernels_.bf16_pairs;
    return PackForCpu(weights, type, storage, pairs, pool_);
  }

  using Backend::Gemm;
  void Gemm(std::span<const Product> products) override;

  void EmbedNorm(const std::int32_t* tokens, const Matrix& table, const NormWeights& norm,
                 const Matrix& out, const Matrix& copy) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.embed_norm(tokens, table, norm, out, copy, begin, end);
    });
  }
  void NormShift(const NormShiftArgs& args) override;
  void NormToState(const Matrix& x, const NormWeights& norm, const std::int32_t* rows,
                   const std::int32_t* slots, std::int64_t count,
                   const Matrix& state) override {
    pool_.ParallelFor(count, RowGrain(x.cols), [&](auto begin, auto end) {
      kernels_.norm_to_state(x, norm, rows, slots, state, begin, end);
    });
  }
  void RmsShift(const RmsShiftArgs& args) override {
    pool_.ParallelFor(
        args.num_inputs * args.cur[0].rows, RowGrain(args.cur[0].cols),
        [&](auto begin, auto end) { kernels_.rms_shift(args, begin, end); });
  }
  void Lerp(const LerpArgs& args) override {
    ForRows(args.out, [&](auto begin, auto end) { kernels_.lerp(args, begin, end); });
  }
  void Convert(const Matrix& in, const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) { kernels_.convert(in, out, begin, end); });
  }
  void Wkv(const WkvArgs& args) override {
    parts_.Clear();
    for (std::int32_t i = 0; i < args.spans.count; ++i)
      parts_.Add(args.heads, WorkOf(args.spans.begin[i + 1] - args.spans.begin[i]));
    ForParts([&](auto begin, auto end) { kernels_.wkv(args, begin, end); });
  }
  void AddNorm(const AddNormArgs& args) override {
    ForRows(args.out, [&](auto begin, auto end) { kernels_.add_norm(args, begin, end); });
  }
  void GatherRows(const Matrix& in, const std::int64_t* index,
                  const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.gather_rows(in, index, out, begin, end);
    });
  }
  void GatherTokenRows(const Matrix& table, const std::int32_t* tokens,
                       const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.gather_token_rows(table, tokens, out, begin, end);
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
  void GatherBlocks(const void* from, std::int64_t bytes, const std::int64_t* index,
                    std::int64_t count, void* to) override {
    for (std::int64_t i = 0; i < count; ++i)
      std::memcpy(static_cast<std::byte*>(to) + i * bytes,
                  static_cast<const std::byte*>(from) + index[i] * bytes,
                  static_cast<std::size_t>(bytes));
  }
  void ScatterBlocks(const void* from, std::int64_t bytes, const std::int64_t* index,
                     std::int64_t count, void* to) override {
    for (std::int64_t i = 0; i < count; ++i)
      std::memcpy(static_cast<std::byte*>(to) + index[i] * bytes,
                  static_cast<const std::byte*>(from) + i * bytes,
                  static_cast<std::size_t>(bytes));
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
  void StoreTiles(const StoreTilesArgs& args) override;
  void Attend(const AttendArgs& args) override;
  void AttendFinish(const Matrix& carry, const NormWeights& norm,
                    const Matrix& out) override {
    ForRows(out, [&](auto begin, auto end) {
      kernels_.attend_finish(carry, norm, out, begin, end);
    });
  }

  void Sample(const Matrix& logits, std::span<const SampleRequest> requests) override;
  void Score(const Matrix& logits, std::span<const ScoreRequest> requests) override;

 private:
  static void Copy(void* to, const void* from, std::int64_t bytes, std::int64_t many) {
    const auto size = static_cast<std::size_t>(bytes);
    if (bytes < many)
      std::memcpy(to, from, size);
    else
      CopyPastCaches(to, from, size);
  }
  static std::int64_t RowGrain(std::int64_t cols) {
    return std::max<std::int64_t>(1, kGrainElements / std::max<std::int64_t>(1, cols));
  }
  template <typename Body>
  void ForRows(const Matrix& m, const Body& body) {
    pool_.ParallelFor(m.rows, RowGrain(m.cols), body);
  }

  // Of rows that share a head's state, or its tile: to read that takes about as long as
  // to compute a row, some 0.3 us.
  static std::int64_t WorkOf(std::int64_t rows) { return rows + 1; }
  // body(begin, end) on pieces of `parts_`.
  template <typename Body>
  void ForParts(const Body& body) {
    constexpr std::int64_t kGrainWork = 4;
    pool_.ParallelFor(parts_.work(), kGrainWork, [&](auto begin, auto end) {
      body(parts_.FirstFrom(begin), parts_.FirstFrom(end));
    });
  }

  // Of rows that read tiles together on one thread: not so many that what they carry does
  // not stay close.
  static constexpr std::int64_t kAttendRows = 64;
  // An Attend has so many parts for each thread, if rows can be cut apart.
  static constexpr std::int64_t kPartsOfThread = 4;
  static std::int64_t WorkOf(const AttendArgs& args, const AttendPart& part);
  void FindRoots(const AttendArgs& args);

  static std::int64_t PanelsOf(const Product& p) {
    return (p.w->out() + kPanelColumns - 1) / kPanelColumns;
  }

  const CpuKernels& kernels_;
  ThreadPool pool_;
  std::vector<AttendPart> attend_roots_, attend_parts_;  // of an Attend, for all heads
  UnevenParts parts_;                                    // of an Attend or a Wkv
  std::vector<SampleScratch> scratch_;                   // one a piece of a sampling loop
};

void CpuBackend::Gemm(std::span<const Product> products) {
  GOLDFINCH_CHECK(!products.empty() && products.size() <= kMaxProducts);
  // Few panels: cut the rows too, so that a narrow product of many rows has pieces for
  // all threads. 96 is a multiple of every kernel's block of rows.
  constexpr std::int64_t kRowPiece = 96;
  struct Cut {
    GemmArgs args;
    std::int64_t panels, row_piece;
    std::int64_t first;  // number of the product's first task
  };
  Cut cuts[kMaxProducts];
  std::int64_t all_panels = 0;
  for (const Product& p : products) all_panels += PanelsOf(p);
  const bool narrow = all_panels < 8 * pool_.num_threads();
  std::int64_t tasks = 0, work = 0, most_rows = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const auto& [x, weights, y, epilogue, prompt_rows] = products[i];
    const GemmPanels& w = static_cast<const CpuPackedWeights&>(*weights).panels();
    GOLDFINCH_CHECK(x.type == w.type && x.cols == w.in && y.cols == w.out &&
                    x.rows == y.rows && w.in > 0);
    // Scales go over finished sums, so those of bytes cannot be taken up again.
    GOLDFINCH_CHECK(!epilogue.resume || (y.type == DType::kF32 && w.storage == w.type));
    const std::int64_t row_piece = narrow ? std::min(kRowPiece, x.rows) : x.rows;
    cuts[i] = {.args = {.x = x, .w = w, .y = y, .epilogue = epilogue},
               .panels = PanelsOf(products[i]),
               .row_piece = row_piece,
               .first = tasks};
    if (x.rows == 0) continue;
    most_rows = std::max(most_rows, x.rows);
    tasks += cuts[i].panels * ((x.rows + row_piece - 1) / row_piece);
    work += w.in * kPanelColumns * cuts[i].panels * x.rows;
  }
  if (tasks == 0) return;
  const std::int64_t task_work = std::max<std::int64_t>(1, work / tasks);
  const std::int64_t grain = std::max<std::int64_t>(1, 4 * kGrainElements / task_work);
  // Kernels take up to four panels side by side where rows are few. With more rows large
  // units would leave a thread waiting for the other's last one.
  const std::int64_t unit = most_rows <= 4 && tasks >= 8 * pool_.num_threads() ? 4 : 1;
  const std::int64_t units = (tasks + unit - 1) / unit;
  pool_.ParallelFor(units, (grain + unit - 1) / unit, [&](auto first, auto last) {
    const std::int64_t begin = first * unit, end = std::min(last * unit, tasks);
    std::size_t i = 0;
    // Runs of panels of one product and one piece of its rows.
    for (std::int64_t task = begin; task < end;) {
      while (i + 1 < products.size() && task >= cuts[i + 1].first) ++i;
      const Cut& cut = cuts[i];
      const std::int64_t own = task - cut.first, panel = own % cut.panels;
      const std::int64_t row = own / cut.panels * cut.row_piece;
      const std::int64_t panel_end = std::min(cut.panels, panel + end - task);
      kernels_.gemm(cut.args, row, std::min(row + cut.row_piece, cut.args.x.rows), panel,
                    panel_end);
      task += panel_end - panel;
    }
  });
}

void CpuBackend::NormShift(const NormShiftArgs& args) {
  ForRows(args.x, [&](auto begin, auto end) { kernels_.norm_shift(args, begin, end); });
  // The first row of a span has read its state by now.
  for (std::int32_t span = 0; span < args.spans.count; ++span) {
    const std::int32_t last = args.spans.begin[span + 1] - 1;
    if (last > args.spans.begin[span])
      kernels_.norm_to_state(args.x, args.norm, &last, &args.spans.next_slot[span],
                             args.state, 0, 1);
  }
}

void CpuBackend::StoreTiles(const StoreTilesArgs& args) {
  const std::int64_t rows = args.layer[0].k.rows, heads = args.layer[0].tiles.heads;
  if (rows == 0) return;
  // Calls body(layer, whether it is about keys, first, last) for pieces of `each` things
  // of all keys and values.
  const auto for_all = [&](std::int64_t each, std::int64_t cols, const auto& body) {
    pool_.ParallelFor(2 * args.num_layers * each, RowGrain(cols), [&](auto at, auto end) {
      while (at < end) {
        const std::int64_t set = at / each, first = at % each;
        const std::int64_t last = std::min(each, first + end - at);
        body(args.layer[set / 2], set % 2 == 0, first, last);
        at += last - first;
      }
    });
  };
  using Layer = StoreTilesArgs::Layer;
  for_all(rows, heads * kHeadSize,
          [&](const Layer& layer, bool keys, std::int64_t first, std::int64_t last) {
            const Matrix& m = keys ? layer.k : layer.v;
            const NormWeights& norm = keys ? layer.norm_k : layer.norm_v;
            if (norm.weight != nullptr)
              kernels_.add_norm({.a = m, .norm = norm, .out = m}, first, last);
            if (keys && args.frequency != nullptr)
              kernels_.rope(m, args.position, args.frequency, first, last);
          });
  // Head by head: the tokens of a head's keys lie side by side.
  for_all(heads, rows * kHeadSize,
          [&](const Layer& layer, bool keys, std::int64_t first, std::int64_t last) {
            const auto scatter = keys ? kernels_.scatter_keys : kernels_.scatter_values;
            scatter(keys ? layer.k : layer.v, args.row, layer.tiles, first, last);
          });
}

// Of a head.
std::int64_t CpuBackend::WorkOf(const AttendArgs& args, const AttendPart& part) {
  std::int64_t work = 0;
  for (std::int64_t i = part.run_begin; i < part.run_end; ++i) {
    const AttendRun& run = args.runs[i];
    const std::int64_t rows = std::min<std::int64_t>(run.row_end, part.row_end) -
                              std::max<std::int64_t>(run.row_begin, part.row_begin);
    if (rows > 0) work += (run.tile_end - run.tile_begin) * WorkOf(rows);
  }
  return std::max<std::int64_t>(1, work);  // padding sees no tile
}

// A part for each run that no other leads to, with all that it leads to. Whoever reads
// tiles together is on one thread.
void CpuBackend::FindRoots(const AttendArgs& args) {
  attend_roots_.clear();
  const std::int64_t num_runs = *args.num_runs;
  for (std::int64_t begin = 0, end = 0; begin < num_runs; begin = end) {
    const AttendRun& root = args.runs[begin];
    for (end = begin + 1; end < num_runs && args.runs[end].row_begin < root.row_end;)
      ++end;
    attend_roots_.push_back({.run_begin = begin,
                             .run_end = end,
                             .row_begin = root.row_begin,
                             .row_end = root.row_end});
  }
}

void CpuBackend::Attend(const AttendArgs& args) {
  FindRoots(args);
  std::int64_t all = 0;
  for (const AttendPart& root : attend_roots_) all += WorkOf(args, root);
  attend_parts_.clear();
  parts_.Clear();
  const std::int64_t wanted = kPartsOfThread * pool_.num_threads();
  for (const AttendPart& root : attend_roots_) {
    // As many rows are cut apart as there have to be, and more of them where a head's
    // work is so much of all that threads would have nothing to do.
    const std::int64_t rows = root.row_end - root.row_begin;
    const std::int64_t share = all * args.heads;
    const std::int64_t pieces =
        std::clamp<std::int64_t>((wanted * WorkOf(args, root) + share - 1) / share,
                                 (rows + kAttendRows - 1) / kAttendRows, rows);
    for (std::int64_t i = 0; i < pieces; ++i) {
      AttendPart part = root;
      part.row_begin = root.row_begin + rows * i / pieces;
      part.row_end = root.row_begin + rows * (i + 1) / pieces;
      attend_parts_.push_back(part);
      parts_.Add(args.heads, WorkOf(args, part));
    }
  }
  ForParts([&](std::int64_t first, std::int64_t end) {
    for (std::int64_t task = first; task < end;) {
      const std::int64_t head = task % args.heads;
      AttendPart part = attend_parts_[static_cast<std::size_t>(task / args.heads)];
      part.head_begin = head;
      part.head_end = std::min(args.heads, head + end - task);
      kernels_.attend(args, part);
      task += part.head_end - head;
    }
  });
}

void CpuBackend::Sample(const Matrix& logits, std::span<const SampleRequest> requests) {
  const auto vocab = static_cast<std::int32_t>(logits.cols);
  Prepare(0, vocab, 0);
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
  const int threads = options.num_threads == 0 ? UsableCpus() : options.num_threads;
  return CpuBackendOf(**kernels, std::max(1, threads), options.pin_threads);
}

std::unique_ptr<Backend> CpuBackendOf(const CpuKernels& kernels, int num_threads,
                                      bool pin_threads) {
  return std::make_unique<CpuBackend>(kernels, num_threads, pin_threads);
}

}  // namespace goldfinch
