// The seam between the model and a device: memory, copies and the ops of docs/model.md.
//
// The model (engine/model/) is written once against this interface and never touches an
// element. Pointers in arguments are device memory unless they say host. Ops are queued
// in order; Synchronize waits for them. Every op computes a row of its output from the
// rows that row names and from nothing else, in one fixed order, so bits do not depend
// on how many other rows there are. There may be two such orders, one for rows of prompts
// and one for all others (prompt_grid).
//
// "compute type" below is the type of matrix inputs: f32, or bf16 rounded to nearest
// even where a value is produced. Everything else is float32.
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/backend/matrix.h"
#include "engine/backend/op_args.h"
#include "engine/model/stored_tensor.h"
#include "engine/sampling.h"
#include "engine/sampling/token_counts.h"
#include "engine/token.h"

namespace goldfinch {

// A weight as it lies in a file, in host memory and of no alignment: element (i, j) is
// number i * row_stride + j * col_stride from `data`. Either stride may be the long one,
// so a matrix stored [in, out] is packed as W^T without a copy.
struct HostMatrix {
  const std::byte* data = nullptr;
  StoredType stored = StoredType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;
  std::int64_t col_stride = 1;
  // Whether there will be rows of prompts for it (Backend::Product::prompt_rows), for
  // which a device may keep it a second time.
  bool of_prompts = true;
};

// Weights of y = x W^T on the device, W being [out, in], in whatever layout the
// backend's Gemm wants.
class PackedWeights {
 public:
  PackedWeights(std::int64_t out, std::int64_t in, std::int64_t bytes)
      : out_(out), in_(in), bytes_(bytes) {}
  virtual ~PackedWeights() = default;
  std::int64_t out() const { return out_; }
  std::int64_t in() const { return in_; }
  std::int64_t bytes() const { return bytes_; }  // of device memory

 private:
  const std::int64_t out_, in_, bytes_;
};

// Memory of a backend, zeroed when allocated, freed on destruction.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual void* data() const = 0;
};

// Memory was asked of a device that has failed: `status` is the fault. To whoever only
// wants to know that there is none, it is that.
class DeviceFault : public std::bad_alloc {
 public:
  explicit DeviceFault(absl::Status status) : status_(std::move(status)) {}
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Backend, whose bits, kernel version, and what was chosen for the weights packed so
  // far; with the dtypes it makes a numerics id.
  virtual std::string numerics() const = 0;
  // What its kernels are for, "avx512" or "sm90", several of which may have one numerics.
  virtual std::string kernels() const = 0;

  virtual std::unique_ptr<DeviceMemory> Allocate(std::int64_t bytes) = 0;
  virtual void CopyToDevice(void* device, const void* host, std::int64_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, std::int64_t bytes) = 0;
  virtual void CopyOnDevice(void* to, const void* from, std::int64_t bytes) = 0;
  // Whether each copy to the host waits for the device, however small: what lies in many
  // places is then better gathered in one first.
  virtual bool copies_wait() const { return false; }
  virtual void Zero(void* device, std::int64_t bytes) = 0;
  virtual void Synchronize() = 0;
  // The device's first fault, INTERNAL, found by now; ops since then did nothing. After
  // Synchronize it tells of everything before it.
  virtual absl::Status status() const { return absl::OkStatus(); }

  // Where prompts may be cut: at positions that are multiples of this, or anywhere if it
  // is 1. Where it is more, rows of prompts are a class of their own:
  // Product::prompt_rows and RowSpans::lead tell which they are, and their bits are those
  // of no other rows.
  virtual std::int64_t prompt_grid() const { return 1; }

  // Device memory that nobody has taken; none where it is the host's.
  virtual std::optional<std::int64_t> FreeBytes() { return std::nullopt; }

  // Device memory taken besides what Allocate and Pack gave out.
  virtual std::int64_t own_bytes() const { return 0; }

  // Rows of products that are enough to fill the device: work that has no bound of its
  // own goes in pieces of so many. At least kMaxPageTokens.
  virtual std::int64_t piece_rows() const { return 256; }

  // Rows of logits that a step works out at once: those of one product share the reading
  // of the head's weights, and each takes a vocabulary of floats.
  virtual std::int64_t max_logit_rows() const { return 64; }

  // Takes what ops of up to `rows` rows, and of `logit_rows` rows of `vocab_size` logits,
  // need besides their arguments, so that a step takes nothing.
  virtual void Prepare(std::int64_t rows, std::int64_t vocab_size,
                       std::int64_t logit_rows) = 0;

  // Ops of one step come between the two, closely one after another: a device may keep
  // its threads awake meanwhile.
  virtual void BeginStep() = 0;
  virtual void EndStep() = 0;

  // Ops that come again with the same arguments, the memory they point to having other
  // contents, can be recorded once and then be queued all at once. A key names them.
  // Whether Record is of any use:
  virtual bool records() const { return false; }
  // Calls `ops`, perhaps more than once, which queues ops only, and none that waits; none
  // of them runs. False if that cannot be, nor anything after it: nothing is recorded.
  virtual bool Record(std::int64_t key, const std::function<void()>& ops) {
    static_cast<void>(key), static_cast<void>(ops);
    return false;
  }
  // Queues what was recorded under `key`; false, if nothing was.
  virtual bool Replay(std::int64_t key) {
    static_cast<void>(key);
    return false;
  }
  // What the device's driver refused, so that ops are queued without it, and why, in
  // words; empty: nothing. No bit depends on it.
  virtual std::string refused() const { return {}; }
  // Whether what Attend queues is the same for any calls that have no more chunks than
  // this (AttendArgs::num_chunks).
  virtual bool AttendsAtOnce(std::int64_t num_chunks, std::int64_t heads) const {
    static_cast<void>(num_chunks), static_cast<void>(heads);
    return true;
  }

  // Weights for inputs of type `type`. With `storage` kI8 or kFp8 they are kept in int8
  // or e4m3, one scale an output: the largest magnitude / 127, or / 448.
  virtual std::unique_ptr<PackedWeights> Pack(const HostMatrix& weights, DType type,
                                              DType storage) = 0;

  // y[rows, out] = epilogue(x[rows, in] W^T). x has the type W was packed for.
  struct Product {
    Matrix x;
    const PackedWeights* w = nullptr;
    Matrix y;
    Epilogue epilogue = {};
    // So many of x, the last ones, are rows of prompts; see prompt_grid.
    std::int64_t prompt_rows = 0;
  };
  // Products none of which reads what another writes: they may run side by side, which
  // at few rows saves most of the waiting between them.
  static constexpr std::size_t kMaxProducts = 16;
  virtual void Gemm(std::span<const Product> products) = 0;
  void Gemm(const Product& product) { Gemm(std::span(&product, 1)); }

  // out[i] = LN(table[tokens[i]]), float32; `copy`, where it has data, is the same,
  // rounded to its type.
  virtual void EmbedNorm(const std::int32_t* tokens, const Matrix& table,
                         const NormWeights& norm, const Matrix& out,
                         const Matrix& copy) = 0;
  virtual void NormShift(const NormShiftArgs& args) = 0;
  // state[slots[i]] = LN(x[rows[i]]) for i in [0, count).
  virtual void NormToState(const Matrix& x, const NormWeights& norm,
                           const std::int32_t* rows, const std::int32_t* slots,
                           std::int64_t count, const Matrix& state) = 0;
  virtual void RmsShift(const RmsShiftArgs& args) = 0;
  virtual void Lerp(const LerpArgs& args) = 0;
  // out = in, rounded to out's type.
  virtual void Convert(const Matrix& in, const Matrix& out) = 0;
  virtual void Wkv(const WkvArgs& args) = 0;
  virtual void AddNorm(const AddNormArgs& args) = 0;
  // out[i] = in[index[i]], or zero where the index is -1; converts to out's type.
  virtual void GatherRows(const Matrix& in, const std::int64_t* index,
                          const Matrix& out) = 0;
  // out[i] = table[tokens[i]], converting to out's type.
  virtual void GatherTokenRows(const Matrix& table, const std::int32_t* tokens,
                               const Matrix& out) = 0;
  // out[index[i]] = in[i], converting to out's type.
  virtual void ScatterRows(const Matrix& in, const std::int64_t* index,
                           const Matrix& out) = 0;
  // to[index[i]] = from[i], or, gathering, to[i] = from[index[i]].
  virtual void ScatterTokens(const std::int32_t* from, const std::int64_t* index,
                             std::int64_t count, const TokenStore& to) = 0;
  virtual void GatherTokens(const TokenStore& from, const std::int64_t* index,
                            std::int64_t count, std::int32_t* to) = 0;
  // Blocks of so many bytes: to[i] = from[index[i]], or, scattering, to[index[i]] =
  // from[i].
  virtual void GatherBlocks(const void* from, std::int64_t bytes,
                            const std::int64_t* index, std::int64_t count, void* to) = 0;
  virtual void ScatterBlocks(const void* from, std::int64_t bytes,
                             const std::int64_t* index, std::int64_t count, void* to) = 0;
  // ScatterRows and GatherRows of rows kept in int8 with a bf16 scale each: a row's
  // scale is its largest magnitude / 127, its elements round(x / scale).
  virtual void ScatterQuantized(const Matrix& in, const std::int64_t* index,
                                const Matrix& out, std::uint16_t* scales) = 0;
  virtual void GatherQuantized(const Matrix& in, const std::uint16_t* scales,
                               const std::int64_t* index, const Matrix& out) = 0;
  // Rotates adjacent pairs of every head by position[i] * frequency[pair]; frequency
  // is [kRopePairs], angles are float64.
  virtual void Rope(const Matrix& x, const std::int64_t* position,
                    const double* frequency) = 0;
  virtual void StoreTiles(const StoreTilesArgs& args) = 0;
  virtual void Attend(const AttendArgs& args) = 0;
  // out = LN(carried sums / carried sum of weights) over all heads, rounded to out's
  // type; or without the norm. Resets nothing.
  virtual void AttendFinish(const Matrix& carry, const NormWeights& norm,
                            const Matrix& out) = 0;

  // Host results from device logits, [rows, V]; waits for them.
  struct SampleRequest {
    std::int64_t row = 0;
    const SamplingParams* params = nullptr;
    const TokenCounts* counts = nullptr;  // null: no penalties
    // StartSample only: `counts` lack the newest token, which is this one of the other
    // set.
    std::optional<std::int64_t> pending = {};
    std::int64_t num_generated = 0;
    SampledToken* out = nullptr;
  };
  virtual void Sample(const Matrix& logits, std::span<const SampleRequest> requests) = 0;
  struct ScoreRequest {
    std::int64_t row = 0;
    TokenId target = 0;
    ScoredToken* out = nullptr;
  };
  virtual void Score(const Matrix& logits, std::span<const ScoreRequest> requests) = 0;

  // Whether ops that were queued have not run yet when the call returns, so that a step
  // can be queued behind one that runs. Where they have, what follows is of no use.
  virtual bool runs_ahead() const { return false; }
  // Sample in two halves: the first queues it, the second waits and fills the results.
  // There are kSampleSets that can be between the two, named from 0; one has as many
  // requests at most as Prepare was told of rows, of which only `out` is needed after the
  // first half.
  static constexpr int kSampleSets = 2;
  virtual void StartSample(const Matrix& logits, std::span<const SampleRequest> requests,
                           int set) {
    static_cast<void>(set);
    Sample(logits, requests);
  }
  virtual void FinishSample(int set) { static_cast<void>(set); }
  // The tokens of a set, in the order of its requests, on the device: for ops queued
  // before the set is started again.
  virtual TokenStore SampledTokens(int set) const {
    static_cast<void>(set);
    return {};
  }
};

}  // namespace goldfinch
