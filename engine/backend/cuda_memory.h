// Memory of a CUDA device and of the host beside it, owned.
//
// Threads: as for a Backend.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "engine/backend/backend.h"
#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

// INTERNAL with the stream's first error and what returned it; OK where there is none.
absl::Status StatusOf(const Stream& stream);

// Device memory, zeroed on the stream. Throws std::bad_alloc where there is not so much
// of it, DeviceFault where the device has failed.
class CudaMemory final : public DeviceMemory {
 public:
  CudaMemory(Stream& stream, std::int64_t bytes);
  ~CudaMemory() override;
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  void* data() const override { return data_; }

 private:
  void* data_ = nullptr;
};

// Page-locked host memory, which the device copies from and to by itself. Throws as
// CudaMemory does.
class PinnedMemory {
 public:
  explicit PinnedMemory(std::size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  const std::size_t size_;
};

// A point in a stream that the host can wait for.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void Record(Stream& stream);
  // At once if it was never recorded.
  void Wait(Stream& stream);

 private:
  cudaEvent_t event_ = nullptr;
  bool recorded_ = false;
};

// Copies between the host's ordinary memory and the device through page-locked buffers:
// small copies to the device return before they are done, large ones overlap the copying
// on the host with that on the bus.
class HostCopies {
 public:
  HostCopies();

  // `host` may be changed on return.
  void ToDevice(Stream& stream, void* device, const void* host, std::int64_t bytes);
  // Waits for everything queued before.
  void ToHost(Stream& stream, void* host, const void* device, std::int64_t bytes);

 private:
  static constexpr std::size_t kBuffers = 4;
  static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

  // Moves on to the next buffer, waiting for what it was last used for.
  void NextBuffer(Stream& stream);

  PinnedMemory memory_;
  Event done_[kBuffers];
  std::size_t buffer_ = 0;  // being filled
  std::size_t used_ = 0;    // of it
};

}  // namespace goldfinch::GOLDFINCH_CUDA
