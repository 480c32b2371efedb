// Recorded work of a stream: CUDA graphs by key. Launching hundreds of kernels one by one
// takes the host longer than a small step takes the device.
//
// Threads: as for a Backend.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <type_traits>

#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

class CudaGraphs {
 public:
  explicit CudaGraphs(Stream& stream) : stream_(stream) {}

  // What `ops` launches on the stream becomes the graph of `key`, in the device's memory
  // at once; nothing runs. In the place of an earlier one. Throws std::bad_alloc.
  void Record(std::int64_t key, const std::function<void()>& ops);
  // Launches it, if there is one.
  bool Replay(std::int64_t key);
  // What is queued now becomes part of a graph.
  bool recording() const { return recording_; }

 private:
  struct Destroy {
    void operator()(cudaGraph_t graph) const;
    void operator()(cudaGraphExec_t graph) const;
  };
  template <typename T>
  using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy>;

  // Null after an error.
  Owned<cudaGraphExec_t> Make(const std::function<void()>& ops);

  Stream& stream_;
  bool recording_ = false;
  std::map<std::int64_t, Owned<cudaGraphExec_t>> graphs_;
};

}  // namespace goldfinch::GOLDFINCH_CUDA
