// The runtime API: devices, streams and what is queued on them.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "tests/emulation/die.h"
#include "tests/emulation/emulation.h"
#include "tests/emulation/kernel.h"
#include "tests/emulation/library.h"
#include "tests/emulation/memory.h"

// NOLINTBEGIN: the names are CUDA's.
struct cudaStreamRecord {
  struct Op {
    std::optional<emulation::Kernel> kernel;
    std::function<void()> run;  // what is no kernel
  };
  int device = 0;
  std::deque<Op> ops;  // not done yet
  std::int64_t queued = 0, done = 0;
  std::optional<std::vector<emulation::Kernel>> captured;  // while it is captured
};
struct cudaGraphRecord {
  std::vector<emulation::Kernel> kernels;
};
struct cudaGraphExecRecord {
  int device = 0;
  std::vector<emulation::Kernel> kernels;
  bool uploaded = false;
};
struct cudaEventRecord_ {
  int device = 0;
  cudaStream_t stream = nullptr;  // null: not recorded
  std::int64_t after = 0;         // so many ops of it
};
// NOLINTEND

namespace emulation {
namespace {

constexpr int kDevices = 2;
constexpr unsigned kMaxGridYz = 65535, kMaxGridX = 0x7fffffff;
constexpr std::size_t kMaxThreads = 1024;
// Of a block: without asking, and of all devices of compute capability 8 at most.
constexpr std::size_t kSharedBytes = 48 << 10, kMaxSharedBytes = 99 << 10;

std::int64_t fail_in = -1, calls = 0, graph_launches = 0, copies_to_device = 0;
Driver driver = Driver::kTwoDevices;
Graphs graphs = Graphs::kAny;
thread_local int current_device = 0;
std::set<cudaStream_t> streams;
std::set<std::pair<const void*, int>> loaded;                     // likewise
std::map<std::pair<const void*, int>, std::size_t> shared_bytes;  // by kernel and device

void RunUntil(cudaStream_t stream, std::int64_t after) {
  while (stream->done < after) {
    const auto& op = stream->ops.front();
    if (op.kernel.has_value()) {
      const bool overlaps = stream->done + 1 < after &&
                            stream->ops[1].kernel.has_value() &&
                            stream->ops[1].kernel->launch.dependent;
      RunKernel(*op.kernel, overlaps ? &*stream->ops[1].kernel : nullptr);
    } else {
      op.run();
      EndOverlap();
    }
    stream->ops.pop_front();
    ++stream->done;
  }
  // Who waits with nothing else queued has seen the end of everything.
  if (stream->ops.empty()) EndOverlap();
}

void RunAll() {
  for (const cudaStream_t stream : streams) RunUntil(stream, stream->queued);
}

void Push(cudaStream_t stream, cudaStreamRecord::Op op) {
  if (stream->captured.has_value()) {
    // A copy would be one of what the host's memory is by then.
    if (!op.kernel.has_value()) Die("a graph has more in it than kernels");
    stream->captured->push_back(*std::move(op.kernel));
    return;
  }
  stream->ops.push_back(std::move(op));
  ++stream->queued;
}

cudaError_t Call() {
  ++calls;
  if (fail_in < 0) return cudaSuccess;
  if (fail_in > 0) {
    --fail_in;
    return cudaSuccess;
  }
  for (const cudaStream_t stream : streams) {
    stream->ops.clear();
    stream->done = stream->queued;
  }
  return cudaErrorIllegalAddress;
}

cudaError_t Allocate(void** p, std::size_t bytes, Place place) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  *p = TakeMemory(bytes, place);
  return *p != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

// A device waits for all that is queued before it frees anything.
cudaError_t Free(void* p, Place place) {
  if (p == nullptr) return cudaSuccess;
  RunAll();
  ReturnMemory(p, place);
  return cudaSuccess;
}

void CheckInside(const void* p, std::size_t bytes, Place place) {
  if (!InMemory(p, bytes, place))
    Die(place == Place::kDevice ? "a copy goes beyond device memory"
                                : "a copy goes beyond page-locked memory");
}

}  // namespace

cudaError_t AllowShared(const void* kernel, int bytes) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  const auto size = static_cast<std::size_t>(bytes);
  if (size > kMaxSharedBytes) return cudaErrorInvalidValue;
  shared_bytes[{kernel, current_device}] = size;
  return cudaSuccess;
}

cudaError_t Enqueue(cudaStream_t stream, const void* function, Kernel kernel) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (stream->device != current_device) return cudaErrorInvalidResourceHandle;
  loaded.insert({function, current_device});
  const dim3 grid = kernel.launch.grid, block = kernel.launch.block;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.x > kMaxGridX ||
      grid.y == 0 || grid.y > kMaxGridYz || grid.z == 0 || grid.z > kMaxGridYz)
    return cudaErrorInvalidConfiguration;
  const auto allowed = shared_bytes.find({function, current_device});
  if (kernel.launch.shared_bytes >
      (allowed == shared_bytes.end() ? kSharedBytes : allowed->second))
    return cudaErrorInvalidValue;
  Push(stream, {std::move(kernel), {}});
  return cudaSuccess;
}

cudaError_t EnqueueLibrary(cudaStream_t stream, std::function<void()> run) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (stream->device != current_device) return cudaErrorInvalidResourceHandle;
  Push(stream, {std::nullopt, std::move(run)});
  return cudaSuccess;
}
int CurrentDevice() { return current_device; }

void FailCall(std::int64_t calls_away) { fail_in = calls_away; }
std::int64_t NumCalls() { return calls; }
std::int64_t NumLoadedKernels() { return static_cast<std::int64_t>(loaded.size()); }
void ForgetKernels() { loaded.clear(); }
std::int64_t NumGraphLaunches() { return graph_launches; }
std::int64_t NumCopiesToDevice() { return copies_to_device; }
void SetDriver(Driver value) { driver = value; }
void SetGraphs(Graphs value) { graphs = value; }

}  // namespace emulation

using emulation::Call;
using emulation::Place;

// NOLINTBEGIN: the names are CUDA's.
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
  }
  return "?";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorUnknown:
      return "unknown error";
  }
  return "?";
}
cudaError_t cudaGetLastError() { return Call(); }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  emulation::loaded.insert({kernel, emulation::current_device});
  attributes->ptxVersion = 90;
  return cudaSuccess;
}
// How much of its memory a multiprocessor shares cannot be told here.
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute,
                                 int value) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
    return value < -1 || value > 100 ? cudaErrorInvalidValue : Call();
  return emulation::AllowShared(kernel, value);
}
cudaError_t cudaGetDeviceCount(int* count) {
  switch (emulation::driver) {
    case emulation::Driver::kNoDevice:
      return cudaErrorNoDevice;
    case emulation::Driver::kTooOld:
      return cudaErrorInsufficientDriver;
    case emulation::Driver::kTwoDevices:
      break;
  }
  *count = emulation::kDevices;
  return Call();
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulation::kDevices) return cudaErrorInvalidDevice;
  emulation::current_device = device;
  return Call();
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {.name = "emulated", .major = 9, .minor = 0, .multiProcessorCount = 4};
  return Call();
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  return emulation::Allocate(p, bytes, Place::kDevice);
}
cudaError_t cudaFree(void* p) { return emulation::Free(p, Place::kDevice); }
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = emulation::FreeBytes();
  *total = emulation::TotalBytes();
  return Call();
}
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  return emulation::Allocate(p, bytes, Place::kHost);
}
cudaError_t cudaFreeHost(void* p) { return emulation::Free(p, Place::kHost); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (bytes == 0) return cudaSuccess;
  const bool to_host = kind == cudaMemcpyDeviceToHost;
  if (kind == cudaMemcpyHostToDevice) ++emulation::copies_to_device;
  emulation::CheckInside(to, bytes, to_host ? Place::kHost : Place::kDevice);
  emulation::CheckInside(from, bytes,
                         kind == cudaMemcpyHostToDevice ? Place::kHost : Place::kDevice);
  // Until the copy is there, nobody knows what is.
  if (to_host) std::memset(to, 0xff, bytes);
  emulation::Push(stream, {std::nullopt, [=] { std::memmove(to, from, bytes); }});
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  emulation::CheckInside(p, bytes, Place::kDevice);
  emulation::Push(stream, {std::nullopt, [=] { std::memset(p, value, bytes); }});
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  *stream = new cudaStreamRecord;
  (*stream)->device = emulation::current_device;
  emulation::streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  emulation::RunUntil(stream, stream->queued);
  emulation::streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (stream->captured.has_value()) return cudaErrorStreamCaptureUnsupported;
  emulation::RunUntil(stream, stream->queued);
  emulation::CheckGuards();
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (stream->captured.has_value()) return cudaErrorStreamCaptureUnsupported;
  stream->captured.emplace();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->captured.has_value()) return cudaErrorInvalidValue;
  *graph = new cudaGraphRecord{*std::exchange(stream->captured, std::nullopt)};
  return Call();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  const bool overlap = std::ranges::any_of(
      graph->kernels, [](const emulation::Kernel& k) { return k.launch.dependent; });
  if (emulation::graphs == emulation::Graphs::kNone ||
      (emulation::graphs == emulation::Graphs::kInOrder && overlap))
    return cudaErrorNotSupported;
  *executable = new cudaGraphExecRecord{.device = emulation::current_device,
                                        .kernels = graph->kernels};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (executable->device != stream->device) return cudaErrorInvalidResourceHandle;
  executable->uploaded = true;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (executable->device != stream->device) return cudaErrorInvalidResourceHandle;
  if (!executable->uploaded) emulation::Die("a graph is launched that was not uploaded");
  for (const emulation::Kernel& kernel : executable->kernels)
    emulation::Push(stream, {kernel, {}});
  ++emulation::graph_launches;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  *event = new cudaEventRecord_;
  (*event)->device = emulation::current_device;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (event->device != stream->device) return cudaErrorInvalidResourceHandle;
  event->stream = stream;
  event->after = stream->queued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (emulation::streams.contains(event->stream))
    emulation::RunUntil(event->stream, event->after);
  return cudaSuccess;
}
// NOLINTEND
