#include "engine/backend/cuda_graphs.h"

#include <new>
#include <utility>

#include "absl/strings/str_cat.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Fail only where the device is lost.
void CudaGraphs::Destroy::operator()(cudaGraph_t graph) const {
  static_cast<void>(cudaGraphDestroy(graph));
}
void CudaGraphs::Destroy::operator()(cudaGraphExec_t graph) const {
  static_cast<void>(cudaGraphExecDestroy(graph));
}

bool CudaGraphs::Record(std::int64_t key, const std::function<void()>& ops) {
  while (stream_.ok() && use_ != Use::kNone) {
    Owned<cudaGraphExec_t> graph = Make(ops);
    if (stream_.ok()) {
      graphs_[key] = std::move(graph);
      return true;
    }
    if (stream_.error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // as of CudaMemory: no fault of the device
      stream_.error = cudaSuccess;
      throw std::bad_alloc();
    }
    if (!UseLess()) break;
  }
  return false;
}

bool CudaGraphs::UseLess() {
  cudaGetLastError();
  if (cudaStreamSynchronize(stream_.handle) != cudaSuccess) {
    stream_.failed += ", recording a CUDA graph, which cuda_graphs=off does without";
    return false;
  }
  const bool overlapped = use_ == Use::kOverlapping && stream_.overlap;
  use_ = overlapped ? Use::kInOrder : Use::kNone;
  refused_ = absl::StrCat(
      overlapped ? "CUDA graphs of kernels that overlap" : "CUDA graphs", ": ",
      cudaGetErrorString(stream_.error), ", found at ", stream_.failed);
  if (!overlapped) graphs_.clear();
  stream_.error = cudaSuccess;
  stream_.failed.clear();
  return true;
}

CudaGraphs::Owned<cudaGraphExec_t> CudaGraphs::Make(const std::function<void()>& ops) {
  // Relaxed, as a kernel that was never launched may have to be loaded here, which the
  // other modes do not allow.
  if (!stream_.Check(cudaStreamBeginCapture(stream_.handle, cudaStreamCaptureModeRelaxed),
                     "cudaStreamBeginCapture"))
    return nullptr;
  recording_ = true;
  const bool overlap =
      std::exchange(stream_.overlap, stream_.overlap && use_ == Use::kOverlapping);
  ops();
  stream_.overlap = overlap;
  recording_ = false;
  // Also after an error within: the stream would else stay as it is.
  cudaGraph_t captured = nullptr;
  stream_.Check(cudaStreamEndCapture(stream_.handle, &captured), "cudaStreamEndCapture");
  const Owned<cudaGraph_t> graph(captured);
  cudaGraphExec_t made = nullptr;
  if (stream_.ok())
    stream_.Check(cudaGraphInstantiate(&made, graph.get(), 0), "cudaGraphInstantiate");
  Owned<cudaGraphExec_t> executable(made);
  // Else the first launch would take memory, in the midst of a step.
  if (stream_.ok())
    stream_.Check(cudaGraphUpload(executable.get(), stream_.handle), "cudaGraphUpload");
  return executable;
}

bool CudaGraphs::Replay(std::int64_t key) {
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) return false;
  if (stream_.ok())
    stream_.Check(cudaGraphLaunch(found->second.get(), stream_.handle),
                  "cudaGraphLaunch");
  return true;
}

}  // namespace goldfinch::GOLDFINCH_CUDA
