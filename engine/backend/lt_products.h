// Products in bf16 by cuBLASLt, for rows of which many come together: which of its
// algorithms computes a product, and what becomes of the sums.
//
// Batch-invariant, it uses one algorithm for all numbers of rows: the first of those it
// names for the most rows that adds up a sum in one block of threads and was seen to
// give rows the same bits alone, among others and at another place. Which is fastest is
// not measured: two equal machines must choose the same one.
//
// Else every number of rows has the algorithm that the library likes best for it.
//
// Threads: as for a Backend.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/cublas_lt.h"
#include "engine/backend/cuda_memory.h"
#include "engine/kernels/cuda/gemm.h"
#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

class LtProducts {
 public:
  struct Options {
    bool batch_invariant = true;
    std::int64_t rows = 0;        // of a call, at most: 64 at least
    std::int64_t least_side = 0;  // of W
  };
  // Null where the library is absent or does not want this device, which is that of the
  // stream and the calling thread's. Both arguments outlive it.
  static std::unique_ptr<LtProducts> Create(Stream& stream, HostCopies& copies,
                                            const Options& options);
  // What a call of the library wants, made once: a step takes no memory of the host's
  // either.
  struct Objects {
    LtOwned<cublasLtHandle_t> handle;
    LtOwned<cublasLtMatmulDesc_t> operation;
    LtOwned<cublasLtMatrixLayout_t> w, x, y;  // set anew for each call
  };
  LtProducts(const CublasLt& library, Objects objects, Stream& stream, HostCopies& copies,
             const Options& options);

  // Whether matrices [out, in] are worth it, and of sides the algorithms are asked for.
  bool IsWorthIt(std::int64_t out, std::int64_t in) const;
  // Whether there is an algorithm for W [out, in], for which IsWorthIt. Chosen at the
  // first time, which takes memory for steps to come and waits for the device. Throws
  // std::bad_alloc. `w` is device memory for W in bf16, written over.
  bool Choose(std::int64_t out, std::int64_t in, void* w);

  // Whether Run takes a product of W, for which Choose returned true: a question of where
  // its matrices lie, and not of how many rows they have.
  static bool Takes(const GemmArgs& product);
  // Queues the product; `w` is W, row-major in bf16, instead of product.w.data. A failure
  // becomes the stream's error.
  void Run(const GemmArgs& product, const void* w);

  // Memory it has taken.
  std::int64_t device_bytes() const { return scratch_bytes_ + workspace_bytes_; }
  // The library's version and a digest of all that was chosen; empty if nothing was.
  std::string numerics() const;

 private:
  using Algorithm = cublasLtMatmulAlgo_t;
  struct Shape {
    std::int64_t out, in;
    bool operator<(const Shape& other) const {
      return out != other.out ? out < other.out : in < other.in;
    }
  };
  // Number i is for more than 2^(i-1) and up to 2^i rows, or number 0 for all. Empty:
  // none is good.
  using Choice = std::vector<Algorithm>;
  struct Probe;

  // Rows of one call: more of them go one piece after the other.
  std::int64_t MostRows(std::int64_t out) const;

  // Says how the matrices of the next call lie.
  cublasStatus_t Lay(const Shape& shape, std::int64_t rows, std::int64_t x_stride,
                     std::int64_t y_stride) const;
  // As steps have them.
  bool Lay(const Shape& shape, std::int64_t rows) const;
  // y = W x, or y += W x.
  cublasStatus_t Multiply(const Shape& shape, const Algorithm& algorithm, const void* w,
                          const Matrix& x, float* y, std::int64_t y_stride, bool add);

  // For so many rows, the best one first.
  std::vector<Algorithm> Candidates(const Shape& shape, std::int64_t rows) const;
  bool Supports(const Shape& shape, const Algorithm& algorithm, std::int64_t rows) const;
  std::int64_t Attribute(const Algorithm& algorithm, std::size_t index) const;
  bool AddsInOneBlock(const Algorithm& algorithm) const;
  // Whether rows have the same bits in every way that is tried, y being stored or added
  // to.
  bool KeepsBits(const Shape& shape, const Algorithm& algorithm, const Probe& probe,
                 bool add);
  Choice OneForAll(const Shape& shape, void* w);
  Choice OneForEach(const Shape& shape, void* w);

  const CublasLt& library_;
  const Objects objects_;
  Stream& stream_;
  HostCopies& copies_;
  const Options options_;
  std::map<Shape, Choice> choices_;
  // Sums on their way to FinishSums, and partial ones of the library's.
  std::unique_ptr<CudaMemory> scratch_, workspace_;
  std::int64_t scratch_bytes_ = 0, workspace_bytes_ = 0;
};

}  // namespace goldfinch::GOLDFINCH_CUDA
