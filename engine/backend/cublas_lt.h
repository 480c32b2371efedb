// cuBLASLt, the library of matrix products that comes with CUDA. It is looked for when a
// backend is made: no program of ours needs a file of it to start.
//
// Threads: any.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <memory>
#include <type_traits>

#ifndef GOLDFINCH_CUDA
#define GOLDFINCH_CUDA cuda
#endif

namespace goldfinch::GOLDFINCH_CUDA {

// What we call of it; each name stands behind "cublasLt".
#define GOLDFINCH_CUBLASLT_FUNCTIONS(F) \
  F(GetVersion)                         \
  F(Create)                             \
  F(Destroy)                            \
  F(MatmulDescCreate)                   \
  F(MatmulDescDestroy)                  \
  F(MatmulDescSetAttribute)             \
  F(MatrixLayoutCreate)                 \
  F(MatrixLayoutDestroy)                \
  F(MatrixLayoutSetAttribute)           \
  F(MatmulPreferenceCreate)             \
  F(MatmulPreferenceDestroy)            \
  F(MatmulPreferenceSetAttribute)       \
  F(MatmulAlgoGetHeuristic)             \
  F(MatmulAlgoCheck)                    \
  F(MatmulAlgoConfigGetAttribute)       \
  F(Matmul)

struct CublasLt {
#define GOLDFINCH_MEMBER(name) decltype(&cublasLt##name) name = nullptr;
  GOLDFINCH_CUBLASLT_FUNCTIONS(GOLDFINCH_MEMBER)
#undef GOLDFINCH_MEMBER
};

// Null where this machine has no such library of the major version that the headers are
// of. It stays loaded until the process ends.
const CublasLt* LoadCublasLt();

// One of its objects (cublasLtHandle_t and the like), owned.
template <typename T>
using LtOwned = std::unique_ptr<std::remove_pointer_t<T>, cublasStatus_t (*)(T)>;

// What `create(&object, args...)` makes; null if it fails.
template <typename T, typename... P, typename... A>
LtOwned<T> LtMake(cublasStatus_t (*create)(T*, P...), cublasStatus_t (*destroy)(T),
                  A... args) {
  T object = nullptr;
  if (create(&object, args...) != CUBLAS_STATUS_SUCCESS) object = nullptr;
  return {object, destroy};
}

}  // namespace goldfinch::GOLDFINCH_CUDA
