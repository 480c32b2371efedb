#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/emulation/die.h"
#include "tests/emulation/emulation.h"
#include "tests/emulation/library.h"
#include "tests/emulation/memory.h"

// NOLINTBEGIN: the names are CUDA's.
struct cublasLtContext {
  int device = 0;
};
struct cublasLtMatmulDescOpaque_t {
  cublasOperation_t transpose_a = CUBLAS_OP_N;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type = CUDA_R_32F;
  std::int64_t height = 0, width = 0, stride = 0;  // column-major
};
struct cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t workspace = 0;
  std::uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignment[4] = {256, 256, 256, 256};
};
// NOLINTEND

namespace emulation {
namespace {

constexpr std::int64_t kParts = 3;  // of a sum, with kSplit and kInPlace

Lt library = Lt::kWhole;
std::int64_t products[4] = {};
std::int64_t fail_in = -1;

// A product's shape, y [out, rows] = W' [in, out] transposed times x [in, rows]; dies if
// the layouts are of anything else.
struct Shape {
  std::int64_t out, in, rows;
};
Shape ShapeOf(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
              cublasLtMatrixLayout_t d) {
  const auto expect = [](bool ok, const char* what) {
    if (!ok) Die(what);
  };
  expect(desc->transpose_a == CUBLAS_OP_T, "a product's W is not transposed");
  expect(a->type == CUDA_R_16BF && b->type == CUDA_R_16BF && c->type == CUDA_R_32F &&
             d->type == CUDA_R_32F,
         "a product's matrices are of other types");
  expect(a->height == b->height && a->width == d->height && b->width == d->width &&
             c->height == d->height && c->width == d->width && c->stride == d->stride,
         "a product's matrices do not fit each other");
  for (const auto* m : {a, b, c, d})
    expect(m->stride >= m->height && m->height > 0 && m->width > 0,
           "columns of a product's matrix overlap, or there are none");
  return {d->height, a->height, d->width};
}

// An algorithm is its number and how aligned W, x and y are.
LtAlgorithm NumberOf(const cublasLtMatmulAlgo_t& algorithm) {
  return static_cast<LtAlgorithm>(algorithm.data[0]);
}

bool Splits(LtAlgorithm algorithm) {
  return algorithm == LtAlgorithm::kSplit || algorithm == LtAlgorithm::kInPlace;
}

std::size_t WorkspaceOf(const cublasLtMatmulAlgo_t& algorithm, const Shape& shape) {
  return NumberOf(algorithm) != LtAlgorithm::kSplit
             ? 0
             : static_cast<std::size_t>(kParts * shape.out * shape.rows) * sizeof(float);
}

bool Lies(const void* p, cublasLtMatrixLayout_t m, std::uint64_t alignment) {
  const std::int64_t size = m->type == CUDA_R_32F ? 4 : 2;
  if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0 ||
      static_cast<std::uint64_t>(m->stride * size) % alignment != 0)
    Die("a product's matrix is less aligned than its algorithm was asked for");
  return InMemory(
      p, static_cast<std::size_t>(((m->width - 1) * m->stride + m->height) * size),
      Place::kDevice);
}

std::vector<float> ToFloats(const std::uint16_t* from, std::int64_t count) {
  std::vector<float> to(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < to.size(); ++i)
    to[i] = std::bit_cast<float>(static_cast<std::uint32_t>(from[i]) << 16);
  return to;
}

// Sums of products i of eight lanes, then those of the lanes: from the first lane on, or
// from the last one.
float Dot(const float* a, const float* b, std::int64_t count, bool from_last) {
  constexpr int kLanes = 8;
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  for (int lane = 0; i + lane < count; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane)
    sum += lanes[from_last ? kLanes - 1 - lane : lane];
  return sum;
}

struct Product {
  Shape shape;
  LtAlgorithm algorithm;
  const std::uint16_t *w, *x;
  float* y;
  std::int64_t w_stride, x_stride, y_stride;
  float alpha, beta;

  void Run() const {
    const std::int64_t part = (shape.in + kParts - 1) / kParts;
    // Few rows are added up otherwise than many, as the library's tiles may do.
    const bool from_last = algorithm == LtAlgorithm::kByRows && shape.rows <= 64;
    std::vector<std::vector<float>> inputs;
    for (std::int64_t row = 0; row < shape.rows; ++row)
      inputs.push_back(ToFloats(x + row * x_stride, shape.in));
    for (std::int64_t col = 0; col < shape.out; ++col) {
      const std::vector<float> weights = ToFloats(w + col * w_stride, shape.in);
      for (std::int64_t row = 0; row < shape.rows; ++row) {
        const float* const in = inputs[static_cast<std::size_t>(row)].data();
        float sum = 0.0f;
        if (Splits(algorithm))
          for (std::int64_t k = 0; k < shape.in; k += part)
            sum +=
                Dot(weights.data() + k, in + k, std::min(part, shape.in - k), from_last);
        else
          sum = Dot(weights.data(), in, shape.in, from_last);
        float& out = y[row * y_stride + col];
        out = beta == 0.0f ? alpha * sum : alpha * sum + beta * out;
      }
    }
  }
};

template <typename T>
cublasStatus_t Read(T& to, const void* value, std::size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
cublasStatus_t Delete(T* object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

bool HasCublasLt() { return library != Lt::kNone; }
void SetLt(Lt value) { library = value; }
std::int64_t NumLtProducts(LtAlgorithm algorithm) {
  return products[static_cast<std::size_t>(algorithm)];
}
void FailLtProduct(std::int64_t calls) { fail_in = calls; }

}  // namespace emulation

using emulation::LtAlgorithm;

// NOLINTBEGIN: the names are CUDA's.
std::size_t cublasLtGetVersion() { return 990100; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (emulation::library == emulation::Lt::kNoHandle)
    return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasLtContext{emulation::CurrentDevice()};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return emulation::Delete(handle);
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return emulation::Delete(desc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t,
                                              const void* value, std::size_t bytes) {
  return emulation::Read(desc->transpose_a, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout,
                                          cudaDataType type, std::uint64_t rows,
                                          std::uint64_t cols, std::int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, static_cast<std::int64_t>(rows),
                                             static_cast<std::int64_t>(cols), ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return emulation::Delete(layout);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t name,
                                                const void* value, std::size_t bytes) {
  switch (name) {
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return emulation::Read(layout->height, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return emulation::Read(layout->width, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return emulation::Read(layout->stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return emulation::Delete(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name,
    const void* value, std::size_t bytes) {
  switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return emulation::Read(preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return emulation::Read(preference->schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return emulation::Read(
          preference->alignment[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
          bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int most,
    cublasLtMatmulHeuristicResult_t results[], int* count) {
  const emulation::Shape shape = emulation::ShapeOf(desc, a, b, c, d);
  *count = 0;
  for (const LtAlgorithm number : {LtAlgorithm::kSplit, LtAlgorithm::kInPlace,
                                   LtAlgorithm::kByRows, LtAlgorithm::kGood}) {
    if (number == LtAlgorithm::kGood && emulation::library != emulation::Lt::kWhole)
      continue;
    cublasLtMatmulHeuristicResult_t result = {};
    result.algo.data[0] = static_cast<std::uint64_t>(number);
    for (int i = 0; i < 4; ++i) result.algo.data[1 + i] = preference->alignment[i];
    result.workspaceSize = emulation::WorkspaceOf(result.algo, shape);
    // kInPlace comes whatever the mask of schemes: whoever asked must look.
    if (result.workspaceSize > preference->workspace || *count == most) continue;
    results[(*count)++] = result;
  }
  return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  result->workspaceSize =
      emulation::WorkspaceOf(*algorithm, emulation::ShapeOf(desc, a, b, c, d));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(
    const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulAlgoConfigAttributes_t name,
    void* value, std::size_t bytes, std::size_t* written) {
  const bool narrow = name == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID ||
                      name == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID;
  if (bytes != (narrow ? 2u : 4u)) return CUBLAS_STATUS_INVALID_VALUE;
  const LtAlgorithm number = emulation::NumberOf(*algorithm);
  std::uint32_t found = 0;
  if (name == CUBLASLT_ALGO_CONFIG_ID)
    found = static_cast<std::uint32_t>(algorithm->data[0]);
  if (name == CUBLASLT_ALGO_CONFIG_SPLITK_NUM)
    found = emulation::Splits(number) ? static_cast<std::uint32_t>(emulation::kParts) : 1;
  if (name == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)
    found = number == LtAlgorithm::kSplit     ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
            : number == LtAlgorithm::kInPlace ? CUBLASLT_REDUCTION_SCHEME_INPLACE
                                              : CUBLASLT_REDUCTION_SCHEME_NONE;
  std::memcpy(value, &found, bytes);
  *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t al,
                              const void* b, cublasLtMatrixLayout_t bl, const void* beta,
                              const void* c, cublasLtMatrixLayout_t cl, void* d,
                              cublasLtMatrixLayout_t dl,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  using emulation::Die, emulation::Lies;
  const emulation::Shape shape = emulation::ShapeOf(desc, al, bl, cl, dl);
  if (handle->device != emulation::CurrentDevice())
    Die("a product is computed on another thread's device");
  if (c != d) Die("a product is added to another matrix than its own");
  const std::uint64_t* const alignment = algorithm->data + 1;
  if (!Lies(a, al, alignment[0]) || !Lies(b, bl, alignment[1]) ||
      !Lies(c, cl, alignment[2]) || !Lies(d, dl, alignment[3]))
    Die("a product's matrix goes beyond device memory");
  const std::size_t needed = emulation::WorkspaceOf(*algorithm, shape);
  if (needed > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  if (needed > 0 && !emulation::InMemory(workspace, needed, emulation::Place::kDevice))
    Die("a product's workspace goes beyond device memory");
  if (emulation::fail_in == 0) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (emulation::fail_in > 0) --emulation::fail_in;
  const LtAlgorithm number = emulation::NumberOf(*algorithm);
  const emulation::Product product = {.shape = shape,
                                      .algorithm = number,
                                      .w = static_cast<const std::uint16_t*>(a),
                                      .x = static_cast<const std::uint16_t*>(b),
                                      .y = static_cast<float*>(d),
                                      .w_stride = al->stride,
                                      .x_stride = bl->stride,
                                      .y_stride = dl->stride,
                                      .alpha = *static_cast<const float*>(alpha),
                                      .beta = *static_cast<const float*>(beta)};
  if (emulation::EnqueueLibrary(stream, [product] { product.Run(); }) != cudaSuccess)
    return CUBLAS_STATUS_EXECUTION_FAILED;
  ++emulation::products[static_cast<std::size_t>(number)];
  return CUBLAS_STATUS_SUCCESS;
}
// NOLINTEND
