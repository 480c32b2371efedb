#include "engine/backend/cuda_memory.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

absl::Status FaultOf(cudaError_t error, absl::string_view found_at) {
  return absl::InternalError(absl::StrCat("the CUDA device failed, found at ", found_at,
                                          ": ", cudaGetErrorName(error), ", ",
                                          cudaGetErrorString(error)));
}

// Throws what `result` means where memory was asked for.
void ThrowIfRefused(cudaError_t result, absl::string_view what) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // a refusal is no fault of the device: nothing is left of it
  if (result == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw DeviceFault(FaultOf(result, what));
}

}  // namespace

absl::Status StatusOf(const Stream& stream) {
  return stream.ok() ? absl::OkStatus() : FaultOf(stream.error, stream.failed);
}

CudaMemory::CudaMemory(Stream& stream, std::int64_t bytes) {
  if (bytes == 0) return;
  const auto size = static_cast<std::size_t>(bytes);
  if (!stream.ok()) throw DeviceFault(StatusOf(stream));
  ThrowIfRefused(cudaMalloc(&data_, size), "cudaMalloc");
  stream.Check(cudaMemsetAsync(data_, 0, size, stream.handle), "cudaMemsetAsync");
}

CudaMemory::~CudaMemory() {
  // Fails only where the device is lost, and with it what there was to free.
  if (data_ != nullptr) static_cast<void>(cudaFree(data_));
}

PinnedMemory::PinnedMemory(std::size_t bytes) : size_(bytes) {
  void* p = nullptr;
  ThrowIfRefused(cudaHostAlloc(&p, bytes, cudaHostAllocDefault), "cudaHostAlloc");
  data_ = static_cast<std::byte*>(p);
}

PinnedMemory::~PinnedMemory() { static_cast<void>(cudaFreeHost(data_)); }

Event::Event() {
  ThrowIfRefused(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming),
                 "cudaEventCreateWithFlags");
}

Event::~Event() { static_cast<void>(cudaEventDestroy(event_)); }

void Event::Record(Stream& stream) {
  if (stream.ok())
    recorded_ = stream.Check(cudaEventRecord(event_, stream.handle), "cudaEventRecord");
}

void Event::Wait(Stream& stream) {
  if (recorded_ && stream.ok())
    stream.Check(cudaEventSynchronize(event_), "cudaEventSynchronize");
}

HostCopies::HostCopies() : memory_(kBuffers * kBufferBytes) {}

void HostCopies::NextBuffer(Stream& stream) {
  done_[buffer_].Record(stream);
  buffer_ = (buffer_ + 1) % kBuffers;
  done_[buffer_].Wait(stream);
  used_ = 0;
}

void HostCopies::ToDevice(Stream& stream, void* device, const void* host,
                          std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  for (std::size_t at = 0; at < size && stream.ok();) {
    if (used_ == kBufferBytes) NextBuffer(stream);
    const std::size_t piece = std::min(size - at, kBufferBytes - used_);
    std::byte* const staged = memory_.data() + buffer_ * kBufferBytes + used_;
    std::memcpy(staged, static_cast<const std::byte*>(host) + at, piece);
    stream.Check(cudaMemcpyAsync(static_cast<std::byte*>(device) + at, staged, piece,
                                 cudaMemcpyHostToDevice, stream.handle),
                 "cudaMemcpyAsync");
    // Copies start at multiples of 256 bytes, as the device likes them.
    used_ = std::min((used_ + piece + 255) / 256 * 256, kBufferBytes);
    at += piece;
  }
}

void HostCopies::ToHost(Stream& stream, void* host, const void* device,
                        std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  // A piece is taken from its buffer while those after it are on their way.
  struct Piece {
    std::size_t buffer, at, size;
  };
  Piece pieces[kBuffers];
  std::size_t first = 0, count = 0;  // of those on their way
  const auto take = [&] {
    const Piece& piece = pieces[first];
    done_[piece.buffer].Wait(stream);
    if (stream.ok())
      std::memcpy(static_cast<std::byte*>(host) + piece.at,
                  memory_.data() + piece.buffer * kBufferBytes, piece.size);
    first = (first + 1) % kBuffers;
    --count;
  };
  if (size == 0) return;
  NextBuffer(stream);
  for (std::size_t at = 0; at < size && stream.ok();) {
    const std::size_t piece = std::min(size - at, kBufferBytes);
    if (count == kBuffers - 1) take();
    stream.Check(cudaMemcpyAsync(memory_.data() + buffer_ * kBufferBytes,
                                 static_cast<const std::byte*>(device) + at, piece,
                                 cudaMemcpyDeviceToHost, stream.handle),
                 "cudaMemcpyAsync");
    pieces[(first + count++) % kBuffers] = {buffer_, at, piece};
    NextBuffer(stream);
    at += piece;
  }
  while (count > 0) take();
}

}  // namespace goldfinch::GOLDFINCH_CUDA
