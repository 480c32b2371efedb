#include "engine/backend/lt_products.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "engine/kernels/cuda/probe.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

// The library's own matrices are column-major: W [out, in] is one of in x out, x one of
// in x rows, y one of out x rows, and y = W' x, W being transposed.
constexpr cudaDataType_t kInputs = CUDA_R_16BF, kSums = CUDA_R_32F;

// Sums on their way to FinishSums: as many as the most rows have of so many outputs. Of
// more outputs fewer rows go at once, and too few of these.
constexpr std::int64_t kScratchOutputs = 4096, kMaxOutputs = 32768;
// Rows of x are that much apart when algorithms are asked for and tried, as they are in a
// step (DeviceArena::TakeInput), beyond what they have.
constexpr std::int64_t kRowPad = 32;

// Of pointers and of rows, which algorithms that load vectors want.
constexpr std::uint32_t kAlignment = 16;
constexpr int kMaxCandidates = 32;
// What NVIDIA advises for its largest devices.
constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;

// What there is to know of an algorithm. All that could tell two of them apart goes into
// the digest; kSplits and kScheme are places in this list.
struct AttributeOf {
  cublasLtMatmulAlgoConfigAttributes_t name;
  std::size_t bytes;
};
constexpr AttributeOf kAttributes[] = {{CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4},
                                       {CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4},
                                       {CUBLASLT_ALGO_CONFIG_ID, 4},
                                       {CUBLASLT_ALGO_CONFIG_TILE_ID, 4},
                                       {CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4},
                                       {CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4},
                                       {CUBLASLT_ALGO_CONFIG_STAGES_ID, 4},
                                       {CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2},
                                       {CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2}};
constexpr std::size_t kSplits = 0, kScheme = 1;

bool IsAligned(const Matrix& m) {
  return reinterpret_cast<std::uintptr_t>(m.data) % kAlignment == 0 &&
         m.stride * SizeOf(m.type) % kAlignment == 0;
}

// Whether the library's sums can go to y as they are, or be added to it.
bool IsDirect(const GemmArgs& p) {
  const bool stores = p.epilogue.finish == Finish::kStore;
  const bool adds = p.epilogue.finish == Finish::kAdd && !p.epilogue.resume;
  return (stores || adds) && p.y.type == DType::kF32 && IsAligned(p.y);
}

}  // namespace

// Device memory of a trial.
struct LtProducts::Probe {
  const void* w;
  Matrix x;
  float *all, *some;  // sums: of all rows, of some of them
  unsigned* different;
};

std::unique_ptr<LtProducts> LtProducts::Create(Stream& stream, HostCopies& copies,
                                               const Options& options) {
  GOLDFINCH_CHECK(options.rows >= 64);
  const CublasLt* const library = LoadCublasLt();
  if (library == nullptr || !stream.ok()) return nullptr;
  const auto layout = [library](cudaDataType_t type) {
    return LtMake<cublasLtMatrixLayout_t>(
        library->MatrixLayoutCreate, library->MatrixLayoutDestroy, type, std::uint64_t{8},
        std::uint64_t{8}, std::int64_t{8});
  };
  Objects objects = {
      .handle = LtMake<cublasLtHandle_t>(library->Create, library->Destroy),
      .operation = LtMake<cublasLtMatmulDesc_t>(library->MatmulDescCreate,
                                                library->MatmulDescDestroy,
                                                CUBLAS_COMPUTE_32F, kSums),
      .w = layout(kInputs),
      .x = layout(kInputs),
      .y = layout(kSums)};
  cudaGetLastError();  // of a device the library does not want
  if (objects.handle == nullptr || objects.operation == nullptr || objects.w == nullptr ||
      objects.x == nullptr || objects.y == nullptr)
    return nullptr;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  if (library->MatmulDescSetAttribute(objects.operation.get(),
                                      CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                      sizeof transposed) != CUBLAS_STATUS_SUCCESS)
    return nullptr;
  return std::make_unique<LtProducts>(*library, std::move(objects), stream, copies,
                                      options);
}

LtProducts::LtProducts(const CublasLt& library, Objects objects, Stream& stream,
                       HostCopies& copies, const Options& options)
    : library_(library),
      objects_(std::move(objects)),
      stream_(stream),
      copies_(copies),
      options_(options) {}

bool LtProducts::IsWorthIt(std::int64_t out, std::int64_t in) const {
  return out >= options_.least_side && in >= options_.least_side && out % 8 == 0 &&
         in % 8 == 0 && out <= kMaxOutputs;
}

bool LtProducts::Takes(const GemmArgs& product) { return IsAligned(product.x); }

std::int64_t LtProducts::MostRows(std::int64_t out) const {
  const std::int64_t fitting = options_.rows * kScratchOutputs / out / 8 * 8;
  return std::min(options_.rows, fitting);
}

cublasStatus_t LtProducts::Lay(const Shape& shape, std::int64_t rows,
                               std::int64_t x_stride, std::int64_t y_stride) const {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto set = [&](const LtOwned<cublasLtMatrixLayout_t>& layout,
                       cublasLtMatrixLayoutAttribute_t name, std::int64_t value) {
    if (status == CUBLAS_STATUS_SUCCESS)
      status =
          library_.MatrixLayoutSetAttribute(layout.get(), name, &value, sizeof value);
  };
  const auto lay = [&](const LtOwned<cublasLtMatrixLayout_t>& layout, std::int64_t height,
                       std::int64_t width, std::int64_t stride) {
    set(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, height);
    set(layout, CUBLASLT_MATRIX_LAYOUT_COLS, width);
    set(layout, CUBLASLT_MATRIX_LAYOUT_LD, stride);
  };
  lay(objects_.w, shape.in, shape.out, shape.in);
  lay(objects_.x, shape.in, rows, x_stride);
  lay(objects_.y, shape.out, rows, y_stride);
  return status;
}

bool LtProducts::Lay(const Shape& shape, std::int64_t rows) const {
  return Lay(shape, rows, shape.in + kRowPad, shape.out) == CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t LtProducts::Multiply(const Shape& shape, const Algorithm& algorithm,
                                    const void* w, const Matrix& x, float* y,
                                    std::int64_t y_stride, bool add) {
  const cublasStatus_t status = Lay(shape, x.rows, x.stride, y_stride);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const float one = 1.0f, old = add ? 1.0f : 0.0f;
  return library_.Matmul(objects_.handle.get(), objects_.operation.get(), &one, w,
                         objects_.w.get(), x.data, objects_.x.get(), &old, y,
                         objects_.y.get(), y, objects_.y.get(), &algorithm,
                         workspace_ == nullptr ? nullptr : workspace_->data(),
                         static_cast<std::size_t>(workspace_bytes_), stream_.handle);
}

void LtProducts::Run(const GemmArgs& product, const void* w) {
  const Shape shape = {product.w.out, product.w.in};
  const Choice& choice = choices_.at(shape);
  const bool direct = IsDirect(product);
  const bool add = product.epilogue.finish == Finish::kAdd || product.epilogue.resume;
  const std::int64_t rows = product.x.rows, most = MostRows(shape.out);
  for (std::int64_t first = 0; first < rows && stream_.ok(); first += most) {
    const GemmArgs piece = product.Rows(first, std::min(most, rows - first));
    const auto fitting = std::bit_width(static_cast<std::uint64_t>(piece.x.rows - 1));
    const Algorithm& algorithm =
        choice[std::min(static_cast<std::size_t>(fitting), choice.size() - 1)];
    auto* const sums = static_cast<float*>(direct ? piece.y.data : scratch_->data());
    const cublasStatus_t status =
        Multiply(shape, algorithm, w, piece.x, sums, direct ? piece.y.stride : shape.out,
                 direct && add);
    if (status != CUBLAS_STATUS_SUCCESS) {
      // An earlier fault of the device shows here too, and is the better name. The
      // library's own runtime has it, so it is not among this one's last errors.
      const cudaError_t fault = cudaStreamSynchronize(stream_.handle);
      stream_.Check(
          fault != cudaSuccess ? fault : cudaErrorUnknown,
          absl::StrCat("cublasLtMatmul, which returned ", static_cast<int>(status)));
    } else if (!direct) {
      FinishSums(stream_, sums, piece.y, piece.epilogue);
    }
  }
}

bool LtProducts::Choose(std::int64_t out, std::int64_t in, void* w) {
  GOLDFINCH_CHECK(IsWorthIt(out, in));
  const Shape shape = {out, in};
  const auto [found, is_new] = choices_.try_emplace(shape);
  if (!is_new) return !found->second.empty();
  const std::int64_t bytes =
      MostRows(out) * out * static_cast<std::int64_t>(sizeof(float));
  if (bytes > scratch_bytes_) {
    scratch_.reset();
    scratch_bytes_ = 0;
    scratch_ = std::make_unique<CudaMemory>(stream_, bytes);
    scratch_bytes_ = bytes;
  }
  // An algorithm without a workspace has no room for parts of a sum: one more reason why
  // it cannot add them up in an order that depends on the number of rows.
  if (!options_.batch_invariant && workspace_ == nullptr) {
    workspace_ = std::make_unique<CudaMemory>(stream_, kWorkspaceBytes);
    workspace_bytes_ = kWorkspaceBytes;
  }
  found->second = options_.batch_invariant ? OneForAll(shape, w) : OneForEach(shape, w);
  return !found->second.empty();
}

std::vector<LtProducts::Algorithm> LtProducts::Candidates(const Shape& shape,
                                                          std::int64_t rows) const {
  const auto preference = LtMake<cublasLtMatmulPreference_t>(
      library_.MatmulPreferenceCreate, library_.MatmulPreferenceDestroy);
  if (preference == nullptr || !Lay(shape, rows)) return {};
  bool ok = true;
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t name, auto value) {
    ok = library_.MatmulPreferenceSetAttribute(preference.get(), name, &value,
                                               sizeof value) == CUBLAS_STATUS_SUCCESS &&
         ok;
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<std::uint64_t>(workspace_bytes_));
  for (const auto name : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(name, kAlignment);
  if (options_.batch_invariant)
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> results = {};
  int count = 0;
  if (!ok || library_.MatmulAlgoGetHeuristic(
                 objects_.handle.get(), objects_.operation.get(), objects_.w.get(),
                 objects_.x.get(), objects_.y.get(), objects_.y.get(), preference.get(),
                 kMaxCandidates, results.data(), &count) != CUBLAS_STATUS_SUCCESS)
    return {};
  std::vector<Algorithm> algorithms;
  for (const auto& result : std::span(results).first(static_cast<std::size_t>(count)))
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  return algorithms;
}

bool LtProducts::Supports(const Shape& shape, const Algorithm& algorithm,
                          std::int64_t rows) const {
  cublasLtMatmulHeuristicResult_t result = {};
  return Lay(shape, rows) &&
         library_.MatmulAlgoCheck(objects_.handle.get(), objects_.operation.get(),
                                  objects_.w.get(), objects_.x.get(), objects_.y.get(),
                                  objects_.y.get(), &algorithm,
                                  &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<std::size_t>(workspace_bytes_);
}

std::int64_t LtProducts::Attribute(const Algorithm& algorithm, std::size_t index) const {
  const AttributeOf& attribute = kAttributes[index];
  // Of the machine's byte order, little-endian as all that CUDA is made for.
  std::int64_t value = 0;
  std::size_t written = 0;
  const bool known = library_.MatmulAlgoConfigGetAttribute(
                         &algorithm, attribute.name, &value, attribute.bytes, &written) ==
                     CUBLAS_STATUS_SUCCESS;
  return known ? value : -1;
}

bool LtProducts::AddsInOneBlock(const Algorithm& algorithm) const {
  const std::int64_t splits = Attribute(algorithm, kSplits);
  return (splits == 0 || splits == 1) &&
         Attribute(algorithm, kScheme) == CUBLASLT_REDUCTION_SCHEME_NONE;
}

bool LtProducts::KeepsBits(const Shape& shape, const Algorithm& algorithm,
                           const Probe& probe, bool add) {
  // Adding may be another kernel; here it is to zeros.
  const auto multiply = [&](std::int64_t first, std::int64_t count, float* y) {
    if (add)
      stream_.Check(cudaMemsetAsync(
                        y, 0, static_cast<std::size_t>(count * shape.out) * sizeof(float),
                        stream_.handle),
                    "cudaMemsetAsync");
    if (!stream_.ok()) return false;
    const bool done = Multiply(shape, algorithm, probe.w, probe.x.RowsFrom(first, count),
                               y, shape.out, add) == CUBLAS_STATUS_SUCCESS;
    if (!done) cudaGetLastError();  // a refusal; a fault shows again
    return done;
  };
  const std::int64_t rows = probe.x.rows;
  stream_.Check(
      cudaMemsetAsync(probe.different, 0, sizeof *probe.different, stream_.handle),
      "cudaMemsetAsync");
  if (!multiply(0, rows, probe.all)) return false;
  // Of one row up to what a step has, on tiles' edges and off them.
  using Counts = std::initializer_list<std::int64_t>;
  for (const std::int64_t count :
       Counts{1, 2, 7, 64, 65, 200, 333, 1000, 1536, 2049, 3000, rows - 1}) {
    if (count >= rows) continue;
    // Neither where a tile begins nor at either end.
    const std::int64_t first = (rows - count) * 5 / 7;
    if (!multiply(first, count, probe.some)) return false;
    CountDifferent(stream_, probe.all + first * shape.out, probe.some, count * shape.out,
                   probe.different);
  }
  unsigned different = 1;
  copies_.ToHost(stream_, &different, probe.different, sizeof different);
  return stream_.ok() && different == 0;
}

LtProducts::Choice LtProducts::OneForAll(const Shape& shape, void* w) {
  const std::int64_t rows = MostRows(shape.out);
  const std::int64_t elements = rows * (shape.in + kRowPad);
  const CudaMemory inputs(stream_, elements * SizeOf(DType::kBf16));
  const CudaMemory sums(stream_, rows * shape.out * SizeOf(DType::kF32));
  const CudaMemory different(stream_, sizeof(unsigned));
  const Probe probe = {.w = w,
                       .x = {.data = inputs.data(),
                             .type = DType::kBf16,
                             .rows = rows,
                             .cols = shape.in,
                             .stride = shape.in + kRowPad},
                       .all = static_cast<float*>(scratch_->data()),
                       .some = static_cast<float*>(sums.data()),
                       .different = static_cast<unsigned*>(different.data())};
  FillProbe(stream_, static_cast<std::uint16_t*>(w), shape.out * shape.in, 1);
  FillProbe(stream_, static_cast<std::uint16_t*>(inputs.data()), elements, 2);
  for (const Algorithm& algorithm : Candidates(shape, rows))
    if (AddsInOneBlock(algorithm) && Supports(shape, algorithm, 1) &&
        Supports(shape, algorithm, rows) && KeepsBits(shape, algorithm, probe, false) &&
        KeepsBits(shape, algorithm, probe, true))
      return {algorithm};
  return {};
}

LtProducts::Choice LtProducts::OneForEach(const Shape& shape, void* w) {
  const std::int64_t most = MostRows(shape.out);
  const CudaMemory inputs(stream_, most * (shape.in + kRowPad) * SizeOf(DType::kBf16));
  const Matrix x = {.data = inputs.data(),
                    .type = DType::kBf16,
                    .rows = most,
                    .cols = shape.in,
                    .stride = shape.in + kRowPad};
  auto* const sums = static_cast<float*>(scratch_->data());
  Choice choice;
  for (std::int64_t rows = 1;; rows = std::min(2 * rows, most)) {
    const std::vector<Algorithm> candidates = Candidates(shape, rows);
    const auto good = std::find_if(candidates.begin(), candidates.end(), [&](auto& a) {
      // Each is run once, so that its code is there before the rest of the memory is
      // taken.
      return Supports(shape, a, rows / 2 + 1) && Supports(shape, a, rows) &&
             Multiply(shape, a, w, x.Rows(rows), sums, shape.out, false) ==
                 CUBLAS_STATUS_SUCCESS &&
             Multiply(shape, a, w, x.Rows(rows), sums, shape.out, true) ==
                 CUBLAS_STATUS_SUCCESS;
    });
    cudaGetLastError();  // of those that refused
    if (good == candidates.end()) return {};
    choice.push_back(*good);
    if (rows == most) return choice;
  }
}

std::string LtProducts::numerics() const {
  // FNV-1a.
  std::uint32_t digest = 0x811c9dc5u;
  const auto add = [&digest](std::int64_t value) {
    for (int byte = 0; byte < 8; ++byte)
      digest = (digest ^ static_cast<std::uint8_t>(value >> 8 * byte)) * 0x01000193u;
  };
  bool any = false;
  for (const auto& [shape, choice] : choices_) {
    any = any || !choice.empty();
    add(shape.out);
    add(shape.in);
    add(static_cast<std::int64_t>(choice.size()));
    for (const Algorithm& algorithm : choice)
      for (std::size_t i = 0; i < std::size(kAttributes); ++i)
        add(Attribute(algorithm, i));
  }
  if (!any) return "";
  return absl::StrCat("-lt", library_.GetVersion(), "-",
                      absl::Hex(digest, absl::kZeroPad8));
}

}  // namespace goldfinch::GOLDFINCH_CUDA
