#include "engine/backend/cuda_backend.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda_graphs.h"
#include "engine/backend/cuda_memory.h"
#include "engine/backend/cuda_pack.h"
#include "engine/backend/cuda_sampler.h"
#include "engine/backend/lt_products.h"
#include "engine/check.h"
#include "engine/kernels/cuda/gemm.h"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/probe.h"
#include "engine/sync/thread_pool.h"
#include "engine/sync/usable_cpus.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

// Raised whenever a change of ours changes bits.
constexpr int kKernelVersion = 3;

// Rows of decoding that are worth a library's product. Graphs are of no more.
constexpr std::int64_t kManyRows = 256;

constexpr int kMinMajor = 8;  // bf16 tensor cores, cp.async

// The device of this number, made the calling thread's.
absl::StatusOr<cudaDeviceProp> FindDevice(int device) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || count == 0) {
    cudaGetLastError();
    return absl::UnavailableError(
        absl::StrCat("no CUDA device: ", found != cudaSuccess ? cudaGetErrorString(found)
                                                              : "the driver has none"));
  }
  if (device < 0 || device >= count)
    return absl::InvalidArgumentError(absl::StrCat(
        "device is ", device, "; this machine has CUDA devices 0 to ", count - 1));
  cudaDeviceProp properties;
  for (const cudaError_t error :
       {cudaSetDevice(device), cudaGetDeviceProperties(&properties, device)}) {
    if (error != cudaSuccess)
      return absl::InternalError(
          absl::StrCat("CUDA device ", device, ": ", cudaGetErrorString(error)));
  }
  if (properties.major < kMinMajor)
    return absl::FailedPreconditionError(
        absl::StrCat("CUDA device ", device, ", ", properties.name,
                     ", has compute capability ", properties.major, ".", properties.minor,
                     "; at least ", kMinMajor, ".0 is needed"));
  return properties;
}

class CudaPackedWeights final : public PackedWeights {
 public:
  CudaPackedWeights(const GemmWeights& weights, std::unique_ptr<DeviceMemory> memory,
                    std::unique_ptr<DeviceMemory> scales,
                    std::unique_ptr<DeviceMemory> row_major, std::int64_t bytes)
      : PackedWeights(weights.out, weights.in, bytes),
        weights_(weights),
        memory_(std::move(memory)),
        scales_(std::move(scales)),
        row_major_(std::move(row_major)) {}
  const GemmWeights& weights() const { return weights_; }
  // For LtProducts; null: our own kernel has all of its products.
  const void* row_major() const {
    return row_major_ == nullptr ? nullptr : row_major_->data();
  }

 private:
  const GemmWeights weights_;
  const std::unique_ptr<DeviceMemory> memory_, scales_, row_major_;
};

// Made before, and gone after, everything that is queued on it.
struct OwnedStream : Stream {
  OwnedStream() {
    Check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
  }
  ~OwnedStream() {
    if (handle != nullptr) static_cast<void>(cudaStreamDestroy(handle));
  }
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(const CudaBackendOptions& options, const cudaDeviceProp& device)
      : device_(options.device),
        kernels_(absl::StrCat("sm", device.major, device.minor)),
        piece_rows_(options.piece_rows),
        use_graphs_(options.graphs),
        batch_invariant_(options.batch_invariant),
        lt_(options.cublas
                ? LtProducts::Create(stream_, copies_,
                                     {.batch_invariant = options.batch_invariant,
                                      .rows = options.lt_rows,
                                      .least_side = options.lt_least_side})
                : nullptr),
        products_(stream_, GemmPartialBytes()),
        attention_(stream_, options.attention_bytes),
        attention_bytes_(options.attention_bytes),
        partials_(options.attention_bytes / kPartialBytes),
        pack_pool_(UsableCpus()) {
    // What was compiled for less does not wait for the kernel before it.
    stream_.overlap = options.overlap && device.major >= 9 && KernelsWait(stream_);
    stream_.multiprocessors = options.multiprocessors > 0 ? options.multiprocessors
                                                          : device.multiProcessorCount;
    PrepareGemm(stream_);
    PrepareNorms(stream_);
    PrepareElementwise(stream_);
    PrepareQuantize(stream_);
    PrepareWkv(stream_);
    PrepareAttend(stream_);
    PrepareStoreTiles(stream_);
    PrepareSample(stream_);
  }
  ~CudaBackend() override { Synchronize(); }

  std::string numerics() const override {
    return absl::StrCat("cuda-", kernels_, "-v", kKernelVersion,
                        lt_ == nullptr ? "" : lt_->numerics(),
                        batch_invariant_ ? "" : "-nbi");
  }
  std::string kernels() const override { return kernels_; }
  std::int64_t prompt_grid() const override { return kPromptBlock; }

  std::unique_ptr<DeviceMemory> Allocate(std::int64_t bytes) override {
    GOLDFINCH_CHECK(bytes >= 0);
    UseDevice();
    return std::make_unique<CudaMemory>(stream_, bytes);
  }
  void CopyToDevice(void* device, const void* host, std::int64_t bytes) override {
    UseDevice();
    copies_.ToDevice(stream_, device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, std::int64_t bytes) override {
    UseDevice();
    copies_.ToHost(stream_, host, device, bytes);
  }
  void CopyOnDevice(void* to, const void* from, std::int64_t bytes) override {
    if (bytes == 0 || !stream_.ok()) return;
    UseDevice();
    stream_.Check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes),
                                  cudaMemcpyDeviceToDevice, stream_.handle),
                  "cudaMemcpyAsync");
  }
  bool copies_wait() const override { return true; }
  void Zero(void* device, std::int64_t bytes) override {
    if (bytes == 0 || !stream_.ok()) return;
    UseDevice();
    stream_.Check(
        cudaMemsetAsync(device, 0, static_cast<std::size_t>(bytes), stream_.handle),
        "cudaMemsetAsync");
  }
  void Synchronize() override {
    if (stream_.ok())
      stream_.Check(cudaStreamSynchronize(stream_.handle), "cudaStreamSynchronize");
  }
  absl::Status status() const override { return StatusOf(stream_); }

  std::optional<std::int64_t> FreeBytes() override {
    UseDevice();
    std::size_t free = 0, total = 0;
    if (stream_.ok()) stream_.Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<std::int64_t>(free);
  }
  std::int64_t own_bytes() const override {
    return attention_bytes_ + GemmPartialBytes() + sampler_.device_bytes() +
           (lt_ == nullptr ? 0 : lt_->device_bytes());
  }
  std::int64_t piece_rows() const override { return piece_rows_; }
  std::int64_t max_logit_rows() const override { return 256; }
  void Prepare(std::int64_t, std::int64_t vocab_size, std::int64_t logit_rows) override {
    UseDevice();
    sampler_.Prepare(vocab_size, logit_rows);
  }
  void BeginStep() override { UseDevice(); }
  void EndStep() override {}

  bool records() const override { return use_graphs_; }
  bool Record(std::int64_t key, const std::function<void()>& ops) override {
    UseDevice();
    return use_graphs_ && graphs_.Record(key, ops);
  }
  bool Replay(std::int64_t key) override { return graphs_.Replay(key); }
  std::string refused() const override { return graphs_.refused(); }
  bool AttendsAtOnce(std::int64_t num_chunks, std::int64_t heads) const override {
    return num_chunks <= partials_ / heads;
  }

  std::unique_ptr<PackedWeights> Pack(const HostMatrix& weights, DType type,
                                      DType storage) override;

  using Backend::Gemm;
  void Gemm(std::span<const Backend::Product> products) override;

  void EmbedNorm(const std::int32_t* tokens, const Matrix& table, const NormWeights& norm,
                 const Matrix& out, const Matrix& copy) override {
    GOLDFINCH_CUDA::EmbedNorm(stream_, tokens, table, norm, out, copy);
  }
  void NormShift(const NormShiftArgs& args) override {
    GOLDFINCH_CUDA::NormShift(stream_, args);
  }
  void NormToState(const Matrix& x, const NormWeights& norm, const std::int32_t* rows,
                   const std::int32_t* slots, std::int64_t count,
                   const Matrix& state) override {
    GOLDFINCH_CUDA::NormToState(stream_, x, norm, rows, slots, count, state);
  }
  void RmsShift(const RmsShiftArgs& args) override {
    GOLDFINCH_CUDA::RmsShift(stream_, args);
  }
  void Lerp(const LerpArgs& args) override { GOLDFINCH_CUDA::Lerp(stream_, args); }
  void Convert(const Matrix& in, const Matrix& out) override {
    GOLDFINCH_CUDA::Convert(stream_, in, out);
  }
  void Wkv(const WkvArgs& args) override {
    GOLDFINCH_CHECK(args.spans.lead == nullptr ||
                    args.spans.next_slot == args.spans.slot);
    GOLDFINCH_CUDA::Wkv(stream_, args);
  }
  void AddNorm(const AddNormArgs& args) override {
    GOLDFINCH_CUDA::AddNorm(stream_, args);
  }
  void GatherRows(const Matrix& in, const std::int64_t* index,
                  const Matrix& out) override {
    GOLDFINCH_CUDA::GatherRows(stream_, in, index, out);
  }
  void GatherTokenRows(const Matrix& table, const std::int32_t* tokens,
                       const Matrix& out) override {
    GOLDFINCH_CUDA::GatherTokenRows(stream_, table, tokens, out);
  }
  void ScatterRows(const Matrix& in, const std::int64_t* index,
                   const Matrix& out) override {
    GOLDFINCH_CUDA::ScatterRows(stream_, in, index, out);
  }
  void ScatterTokens(const std::int32_t* from, const std::int64_t* index,
                     std::int64_t count, const TokenStore& to) override {
    GOLDFINCH_CUDA::ScatterTokens(stream_, from, index, count, to);
  }
  void GatherTokens(const TokenStore& from, const std::int64_t* index, std::int64_t count,
                    std::int32_t* to) override {
    GOLDFINCH_CUDA::GatherTokens(stream_, from, index, count, to);
  }
  void GatherBlocks(const void* from, std::int64_t bytes, const std::int64_t* index,
                    std::int64_t count, void* to) override {
    UseDevice();
    GOLDFINCH_CUDA::GatherBlocks(stream_, from, bytes, index, count, to);
  }
  void ScatterBlocks(const void* from, std::int64_t bytes, const std::int64_t* index,
                     std::int64_t count, void* to) override {
    UseDevice();
    GOLDFINCH_CUDA::ScatterBlocks(stream_, from, bytes, index, count, to);
  }
  void ScatterQuantized(const Matrix& in, const std::int64_t* index, const Matrix& out,
                        std::uint16_t* scales) override {
    GOLDFINCH_CUDA::ScatterQuantized(stream_, in, index, out, scales);
  }
  void GatherQuantized(const Matrix& in, const std::uint16_t* scales,
                       const std::int64_t* index, const Matrix& out) override {
    GOLDFINCH_CUDA::GatherQuantized(stream_, in, scales, index, out);
  }
  void Rope(const Matrix& x, const std::int64_t* position,
            const double* frequency) override {
    GOLDFINCH_CUDA::Rope(stream_, x, position, frequency);
  }
  void StoreTiles(const StoreTilesArgs& args) override {
    GOLDFINCH_CUDA::StoreTiles(stream_, args);
  }
  void Attend(const AttendArgs& args) override {
    GOLDFINCH_CHECK(args.heads <= partials_);
    GOLDFINCH_CUDA::Attend(stream_, args, static_cast<float*>(attention_.data()),
                           partials_);
  }
  void AttendFinish(const Matrix& carry, const NormWeights& norm,
                    const Matrix& out) override {
    GOLDFINCH_CUDA::AttendFinish(stream_, carry, norm, out);
  }

  void Sample(const Matrix& logits, std::span<const SampleRequest> requests) override {
    UseDevice();
    sampler_.Sample(logits, requests);
  }
  void Score(const Matrix& logits, std::span<const ScoreRequest> requests) override {
    UseDevice();
    sampler_.Score(logits, requests);
  }
  bool runs_ahead() const override { return true; }
  void StartSample(const Matrix& logits, std::span<const SampleRequest> requests,
                   int set) override {
    UseDevice();
    sampler_.Start(logits, requests, set);
  }
  void FinishSample(int set) override {
    UseDevice();
    sampler_.Finish(set);
  }
  TokenStore SampledTokens(int set) const override { return sampler_.tokens(set); }

 private:
  static constexpr std::int64_t kPartialBytes =
      kCarrySize * static_cast<std::int64_t>(sizeof(float));

  // Which device is meant is a matter of the host's thread; a step may come from another
  // one than that which made the backend. Naming the same one again costs next to
  // nothing.
  void UseDevice() { stream_.Check(cudaSetDevice(device_), "cudaSetDevice"); }

  // The row from which on a product is the library's; x.rows: all of it is our own.
  std::int64_t FirstOfLibrary(const Backend::Product& product,
                              const void* row_major) const;

  const int device_;
  OwnedStream stream_;
  const std::string kernels_;
  const std::int64_t piece_rows_;
  const bool use_graphs_;
  CudaGraphs graphs_{stream_};
  HostCopies copies_;
  CudaSampler sampler_{stream_, copies_};
  const bool batch_invariant_;
  const std::unique_ptr<LtProducts> lt_;   // null: there is no library
  const CudaMemory products_, attention_;  // partial results
  const std::int64_t attention_bytes_;
  const std::int64_t partials_;
  ThreadPool pack_pool_;
};

std::unique_ptr<PackedWeights> CudaBackend::Pack(const HostMatrix& weights, DType type,
                                                 DType storage) {
  const CudaPacked packed = PackForCuda(weights, type, storage, pack_pool_);
  std::int64_t taken = 0;
  const auto upload = [&](const void* host, std::size_t bytes) {
    taken += static_cast<std::int64_t>(bytes);
    auto memory = Allocate(static_cast<std::int64_t>(bytes));
    CopyToDevice(memory->data(), host, static_cast<std::int64_t>(bytes));
    return memory;
  };
  GemmWeights w = {
      .type = type, .storage = storage, .in = weights.cols, .out = weights.rows};
  auto memory = upload(packed.weights.data(), packed.weights.size());
  auto scales = upload(packed.scales.data(), packed.scales.size() * sizeof(float));
  w.data = memory->data();
  w.scales = static_cast<const float*>(scales->data());
  std::unique_ptr<DeviceMemory> row_major;
  if (lt_ != nullptr && weights.of_prompts && storage == DType::kBf16 &&
      lt_->IsWorthIt(w.out, w.in)) {
    const std::int64_t bytes = w.out * w.in * SizeOf(DType::kBf16);
    row_major = Allocate(bytes);
    if (lt_->Choose(w.out, w.in, row_major->data())) {
      CopyToDevice(row_major->data(), RowMajorBf16(weights, pack_pool_).data(), bytes);
      taken += bytes;
    } else {
      row_major.reset();
    }
  }
  return std::make_unique<CudaPackedWeights>(w, std::move(memory), std::move(scales),
                                             std::move(row_major), taken);
}

std::int64_t CudaBackend::FirstOfLibrary(const Backend::Product& product,
                                         const void* row_major) const {
  const std::int64_t rows = product.x.rows;
  const std::int64_t others = rows - product.prompt_rows;
  if (row_major == nullptr) return rows;
  // Without the promise the library has the large batches of decoding too, which no graph
  // is recorded of.
  if (!batch_invariant_ && !graphs_.recording() && others > kManyRows) return 0;
  return others;
}

void CudaBackend::Gemm(std::span<const Backend::Product> products) {
  static_assert(kMaxProducts == kMaxGemms);
  GOLDFINCH_CHECK(!products.empty() && products.size() <= kMaxProducts);
  struct LibraryProduct {
    GemmArgs args;
    const void* w;
  };
  std::array<GemmArgs, kMaxGemms> own;
  std::array<LibraryProduct, kMaxGemms> library;
  std::size_t num_own = 0, num_library = 0;
  for (const Product& product : products) {
    const auto& [x, packed, y, epilogue, prompt_rows] = product;
    const auto& weights = static_cast<const CudaPackedWeights&>(*packed);
    const GemmWeights& w = weights.weights();
    GOLDFINCH_CHECK(x.type == w.type && x.cols == w.in && y.cols == w.out &&
                    x.rows == y.rows && w.in > 0);
    GOLDFINCH_CHECK(!epilogue.resume || (y.type == DType::kF32 && w.storage == w.type));
    GOLDFINCH_CHECK(prompt_rows >= 0 && prompt_rows <= x.rows);
    const GemmArgs args = {.x = x, .w = w, .y = y, .epilogue = epilogue};
    const std::int64_t first =
        LtProducts::Takes(args) ? FirstOfLibrary(product, weights.row_major()) : x.rows;
    if (first > 0) own[num_own++] = args.Rows(0, first);
    if (first < x.rows)
      library[num_library++] = {args.Rows(first, x.rows - first), weights.row_major()};
  }
  // What is recorded are steps without prompts: the library may do what no graph holds.
  GOLDFINCH_CHECK(num_library == 0 || !graphs_.recording());
  GOLDFINCH_CUDA::Gemm(stream_, std::span(own).first(num_own),
                       static_cast<float*>(products_.data()));
  for (const auto& [args, w] : std::span(library).first(num_library)) lt_->Run(args, w);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    const CudaBackendOptions& options) {
  auto device = FindDevice(options.device);
  if (!device.ok()) return device.status();
  try {
    auto backend = std::make_unique<CudaBackend>(options, *device);
    if (absl::Status status = backend->status(); !status.ok()) return status;
    return backend;
  } catch (const DeviceFault& fault) {
    return fault.status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "not enough free memory on the CUDA device, or none that could be locked");
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
