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
#include <string>
#include <type_traits>

#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

class CudaGraphs {
 public:
  explicit CudaGraphs(Stream& stream) : stream_(stream) {}

  // What `ops` launches on the stream becomes the graph of `key`, in the device's memory
  // at once; nothing runs. In the place of an earlier one. What the driver refuses to
  // record is recorded again, this time of kernels that do not overlap, and so is
  // everything after it; if it refuses that too, there are no graphs at all: false, now
  // and ever after. Throws std::bad_alloc.
  bool Record(std::int64_t key, const std::function<void()>& ops);
  // Launches it, if there is one.
  bool Replay(std::int64_t key);
  // What there is none of and why, in words; empty: nothing was refused.
  const std::string& refused() const { return refused_; }
  // What is queued now becomes part of a graph.
  bool recording() const { return recording_; }

 private:
  struct Destroy {
    void operator()(cudaGraph_t graph) const;
    void operator()(cudaGraphExec_t graph) const;
  };
  template <typename T>
  using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy>;

  enum class Use { kOverlapping, kInOrder, kNone };

  // Null after an error.
  Owned<cudaGraphExec_t> Make(const std::function<void()>& ops);
  // After an error: tries less from now on. False if the device is at fault, which it
  // says again when it is asked for something else.
  bool UseLess();

  Stream& stream_;
  Use use_ = Use::kOverlapping;
  std::string refused_;
  bool recording_ = false;
  std::map<std::int64_t, Owned<cudaGraphExec_t>> graphs_;
};

}  // namespace goldfinch::GOLDFINCH_CUDA
