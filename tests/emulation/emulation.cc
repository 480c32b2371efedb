#include "tests/emulation/emulation.h"

#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <random>

namespace emulation {

Thread* current = nullptr;

namespace {

namespace context = boost::context;

constexpr std::size_t kStackBytes = 128 << 10;
constexpr std::size_t kMaxThreads = 1024;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s\n", what);
  std::abort();
}

// Stacks of all threads of a block, kept for the next one.
class Stacks {
 public:
  Stacks() {
    memory_ = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) Die("no memory for stacks");
  }
  context::stack_context At(std::size_t thread) const {
    context::stack_context stack;
    stack.size = kStackBytes;
    stack.sp = static_cast<char*>(memory_) + (thread + 1) * kStackBytes;
    return stack;
  }

 private:
  void* memory_;
};

struct KeepStack {
  void deallocate(context::stack_context&) {}
};

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes, zeros;
};

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Fiber {
  Thread thread;
  State state = State::kReady;
  context::fiber self, scheduler;
  unsigned turn = 0;  // collectives of the warp this thread has been in, modulo 2
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

struct Warp {
  // Two sets, since a lane may reach the next collective before another has read.
  std::array<std::array<unsigned char[kSlotBytes], kWarp>, 2> slots;
  std::array<unsigned, 2> arrived{};
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  std::size_t at_barrier = 0, done = 0, num_threads = 0;
  std::vector<std::size_t> order;
};

Block block;
Fiber* running = nullptr;
Order order = Order::kForward;
std::mt19937 shuffle(1);
std::vector<unsigned char> shared;
void* shared_base = nullptr;

void Yield(State state) {
  running->state = state;
  running->scheduler = std::move(running->scheduler).resume();
}

void ReleaseBarrier() {
  if (block.at_barrier == 0 || block.at_barrier + block.done < block.num_threads) return;
  for (std::size_t i = 0; i < block.num_threads; ++i)
    if (block.fibers[i]->state == State::kAtBarrier)
      block.fibers[i]->state = State::kReady;
  block.at_barrier = 0;
}

void Resume(Fiber& fiber) {
  running = &fiber;
  current = &fiber.thread;
  fiber.self = std::move(fiber.self).resume();
}

void StartFibers(dim3 grid, dim3 size, uint3 at, const std::function<void()>& body) {
  static const Stacks stacks;
  const std::size_t count = std::size_t{size.x} * size.y * size.z;
  if (count == 0 || count > kMaxThreads) Die("a block has too many threads, or none");
  while (block.fibers.size() < count) block.fibers.push_back(std::make_unique<Fiber>());
  block.warps.resize((count + kWarp - 1) / kWarp);
  for (Warp& warp : block.warps) warp.arrived = {};
  block.num_threads = count;
  block.done = block.at_barrier = 0;
  for (std::size_t i = 0; i < count; ++i) {
    Fiber& fiber = *block.fibers[i];
    const auto n = static_cast<unsigned>(i);
    fiber.thread.thread = {n % size.x, n / size.x % size.y, n / size.x / size.y};
    fiber.thread.block = at;
    fiber.thread.block_dim = size;
    fiber.thread.grid_dim = grid;
    fiber.thread.lane = n % kWarp;
    fiber.thread.warp = n / kWarp;
    fiber.state = State::kReady;
    fiber.turn = 0;
    const context::stack_context stack = stacks.At(i);
    fiber.self = context::fiber(
        std::allocator_arg, context::preallocated(stack.sp, stack.size, stack),
        KeepStack{}, [&fiber, &body](context::fiber&& scheduler) {
          fiber.scheduler = std::move(scheduler);
          body();
          if (!fiber.open.empty() || !fiber.groups.empty())
            Die("a thread ended before its asynchronous copies");
          fiber.state = State::kDone;
          ++block.done;
          return std::move(fiber.scheduler);
        });
  }
}

void RunBlock(dim3 grid, dim3 size, uint3 at, const std::function<void()>& body) {
  StartFibers(grid, size, at, body);
  block.order.resize(block.num_threads);
  std::iota(block.order.begin(), block.order.end(), std::size_t{0});
  if (order == Order::kBackward) std::reverse(block.order.begin(), block.order.end());
  while (block.done < block.num_threads) {
    if (order == Order::kShuffled)
      std::shuffle(block.order.begin(), block.order.end(), shuffle);
    bool moved = false;
    for (const std::size_t i : block.order) {
      if (block.fibers[i]->state != State::kReady) continue;
      moved = true;
      Resume(*block.fibers[i]);
      ReleaseBarrier();
    }
    if (!moved) Die("threads wait for a barrier or for a lane that never comes");
  }
}

// Waits for every lane of the mask to have left something; which set it was left in.
unsigned Meet(unsigned mask, const void* in, std::size_t bytes) {
  if (bytes > kSlotBytes) Die("a warp exchanges too much at once");
  Warp& warp = block.warps[running->thread.warp];
  const unsigned turn = running->turn, lane = running->thread.lane;
  running->turn ^= 1u;
  if ((mask >> lane & 1u) == 0) Die("a lane is not in its own mask");
  std::memcpy(warp.slots[turn][lane], in, bytes);
  warp.arrived[turn] |= 1u << lane;
  if ((warp.arrived[turn] & mask) != mask) {
    Yield(State::kInWarp);
  } else {
    warp.arrived[turn] &= ~mask;
    const std::size_t first = std::size_t{running->thread.warp} * kWarp;
    for (unsigned i = 0; i < kWarp && first + i < block.num_threads; ++i)
      if ((mask >> i & 1u) != 0 && block.fibers[first + i]->state == State::kInWarp)
        block.fibers[first + i]->state = State::kReady;
  }
  return turn;
}

void Do(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    if (copy.bytes > 0) std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
  }
}

std::int64_t fail_in = -1, calls = 0;

enum Place { kDevice, kHost };
std::int64_t allocations = 0, allocated[2] = {};  // by Place
struct Memory {
  Place place;
  std::size_t bytes;
};
std::map<void*, Memory> memories;

}  // namespace

cudaError_t Call() {
  ++calls;
  if (fail_in < 0) return cudaSuccess;
  if (fail_in == 0) return cudaErrorIllegalAddress;
  --fail_in;
  return cudaSuccess;
}

namespace {

cudaError_t Allocate(void** p, std::size_t bytes, Place place) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  // Memory of a device is not zero by itself.
  *p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xcd, bytes);
  memories[*p] = {place, bytes};
  allocated[place] += static_cast<std::int64_t>(bytes);
  ++allocations;
  return cudaSuccess;
}

cudaError_t Free(void* p, Place place) {
  if (p == nullptr) return cudaSuccess;
  const auto found = memories.find(p);
  if (found == memories.end() || found->second.place != place)
    Die("memory is freed that was not allocated");
  allocated[place] -= static_cast<std::int64_t>(found->second.bytes);
  memories.erase(found);
  std::free(p);
  return cudaSuccess;
}

}  // namespace

void BlockBarrier() {
  ++block.at_barrier;
  Yield(State::kAtBarrier);
}

void Exchange(unsigned mask, const void* in, void* out, std::size_t bytes,
              unsigned from) {
  const unsigned turn = Meet(mask, in, bytes);
  if ((mask >> from & 1u) == 0) Die("a lane is read that does not take part");
  std::memcpy(out, block.warps[running->thread.warp].slots[turn][from], bytes);
}

void Gather(unsigned mask, const void* in, std::size_t bytes,
            void (*combine)(const unsigned char (*all)[kSlotBytes], unsigned lane,
                            void* out),
            void* out) {
  const unsigned turn = Meet(mask, in, bytes);
  combine(block.warps[running->thread.warp].slots[turn].data(), running->thread.lane,
          out);
}

void AsyncCopy(void* to, const void* from, std::size_t bytes, std::size_t zeros) {
  running->open.push_back({to, from, bytes, zeros});
}

void AsyncCommit() {
  running->groups.push_back(std::move(running->open));
  running->open.clear();
}

void AsyncWait(int groups_left) {
  const std::size_t left = static_cast<std::size_t>(groups_left);
  while (running->groups.size() > left) {
    Do(running->groups.front());
    running->groups.erase(running->groups.begin());
  }
}

void* DynamicShared() { return shared_base; }

void Run(dim3 grid, dim3 size, std::size_t shared_bytes,
         const std::function<void()>& body) {
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        // Fresh and of exactly this size: what a block leaves, or reads beyond its
        // memory, is found.
        void* const p = std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128);
        std::memset(p, 0xff, shared_bytes);
        shared_base = p;
        RunBlock(grid, size, {x, y, z}, body);
        std::free(p);
      }
  shared_base = nullptr;
  current = nullptr;
  running = nullptr;
}

void SetOrder(Order value) { order = value; }
void FailCall(std::int64_t calls_away) { fail_in = calls_away; }
std::int64_t NumCalls() { return calls; }
std::int64_t AllocatedBytes() { return allocated[kDevice] + allocated[kHost]; }
std::int64_t DeviceBytes() { return allocated[kDevice]; }
std::int64_t NumAllocations() { return allocations; }

}  // namespace emulation

using emulation::Call;

unsigned __ballot_sync(unsigned mask, bool value) {
  struct Vote {
    unsigned mask;
    bool value;
  };
  const Vote mine = {mask, value};
  unsigned votes = 0;
  emulation::Gather(
      mask, &mine, sizeof mine,
      [](const unsigned char (*all)[emulation::kSlotBytes], unsigned lane, void* out) {
        Vote vote;
        std::memcpy(&vote, all[lane], sizeof vote);
        unsigned sum = 0;
        for (unsigned i = 0; i < emulation::kWarp; ++i) {
          if ((vote.mask >> i & 1u) == 0) continue;
          Vote of_lane;
          std::memcpy(&of_lane, all[i], sizeof of_lane);
          if (of_lane.value) sum |= 1u << i;
        }
        std::memcpy(out, &sum, sizeof sum);
      },
      &votes);
  return votes;
}

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorIllegalAddress";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an illegal memory access was encountered";
}
cudaError_t cudaGetLastError() { return Call(); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return Call();
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? Call() : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {.name = "emulated",
                 .major = 9,
                 .minor = 0,
                 .multiProcessorCount = 4};
  return Call();
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  return emulation::Allocate(p, bytes, emulation::kDevice);
}
cudaError_t cudaFree(void* p) { return emulation::Free(p, emulation::kDevice); }
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  return emulation::Allocate(p, bytes, emulation::kHost);
}
cudaError_t cudaFreeHost(void* p) { return emulation::Free(p, emulation::kHost); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  if (bytes > 0) std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  std::memset(p, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new cudaStreamRecord;
  return Call();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return Call(); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return Call();
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return Call(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return Call(); }
