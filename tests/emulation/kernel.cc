#include "tests/emulation/kernel.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "tests/emulation/access_count.h"
#include "tests/emulation/die.h"
#include "tests/emulation/emulation.h"
#include "tests/emulation/memory.h"
#include "tests/emulation/race_check.h"
#include "tests/emulation/shared_variables.h"

namespace emulation {

Thread* current = nullptr;

namespace {

namespace context = boost::context;

constexpr std::size_t kStackBytes = 128 << 10;
constexpr std::size_t kMaxThreads = 1024;

// Stacks of all threads of a block, kept for the next one.
class Stacks {
 public:
  Stacks() {
    memory_ = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) Die("no memory for stacks");
  }
  bool Have(const void* p) const {
    return static_cast<std::size_t>(static_cast<const char*>(p) -
                                    static_cast<const char*>(memory_)) <
           kStackBytes * kMaxThreads;
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

enum class State { kReady, kAtBarrier, kInWarp, kAwaiting, kDone };

struct Fiber {
  Thread thread;
  State state = State::kReady;
  context::fiber self, scheduler;
  User user;
  unsigned turn = 0;  // collectives of the warp this thread has been in, modulo 2
  bool awaited = false;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

struct Warp {
  // Two sets, since a lane may reach the next collective before another has read.
  std::array<std::array<unsigned char[kSlotBytes], kWarp>, 2> slots;
  std::array<unsigned, 2> arrived{};
};

// A block that runs, with the memory that only it has.
struct Block {
  const Kernel* kernel = nullptr;
  const Stacks stacks;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  std::size_t at_barrier = 0, done = 0, num_threads = 0;
  std::uint32_t launch = 0;  // kernels up to its own
  std::uint32_t epoch = 0;   // barriers passed
  std::vector<std::size_t> order;
  unsigned char* dynamic = nullptr;
  std::size_t dynamic_bytes = 0;
  // Stops where it waits for the kernel before; then what it left in shared variables.
  bool held = false;
  std::vector<unsigned char> variables;
};

// Besides the one that runs, one of the next kernel may wait.
Block blocks[2];
Block* block = &blocks[0];
std::size_t held_index = 0;  // of the block that waits
std::uint32_t launches = 0;  // kernels so far
Fiber* running = nullptr;
Order order = Order::kForward;
std::mt19937 shuffle(1);

void Yield(State state) {
  running->state = state;
  running->scheduler = std::move(running->scheduler).resume();
}

void ReleaseBarrier() {
  if (block->at_barrier == 0 || block->at_barrier + block->done < block->num_threads)
    return;
  for (std::size_t i = 0; i < block->num_threads; ++i)
    if (block->fibers[i]->state == State::kAtBarrier)
      block->fibers[i]->state = State::kReady;
  block->at_barrier = 0;
  ++block->epoch;
  if (Counting()) EndRequests(block->kernel->launch.name);
}

void Resume(Fiber& fiber) {
  running = &fiber;
  current = &fiber.thread;
  fiber.user.epoch = block->epoch;
  if (Watching()) SetUser(&fiber.user);
  fiber.self = std::move(fiber.self).resume();
  SetUser(nullptr);
}

void EndThread(const Fiber& fiber) {
  if (!fiber.open.empty() || !fiber.groups.empty())
    Die("a thread ended before its asynchronous copies");
  if (block->kernel->launch.dependent && !fiber.awaited)
    Die("a thread ended that never waited for the kernel before its own");
}

void StartFibers(std::size_t index, uint3 at) {
  const dim3 size = block->kernel->launch.block;
  const std::size_t count = block->num_threads;
  while (block->fibers.size() < count) block->fibers.push_back(std::make_unique<Fiber>());
  block->warps.resize((count + kWarp - 1) / kWarp);
  for (Warp& warp : block->warps) warp.arrived = {};
  for (std::size_t i = 0; i < count; ++i) {
    Fiber& fiber = *block->fibers[i];
    const auto n = static_cast<unsigned>(i);
    fiber.thread.thread = {n % size.x, n / size.x % size.y, n / size.x / size.y};
    fiber.thread.block = at;
    fiber.thread.block_dim = size;
    fiber.thread.grid_dim = block->kernel->launch.grid;
    fiber.thread.lane = n % kWarp;
    fiber.thread.warp = n / kWarp;
    fiber.state = State::kReady;
    fiber.turn = 0;
    fiber.awaited = false;
    fiber.user = {.launch = block->launch,
                  .block = static_cast<std::uint32_t>(index),
                  .thread = static_cast<std::uint16_t>(i),
                  .waited = !block->kernel->launch.dependent};
    const context::stack_context stack = block->stacks.At(i);
    fiber.self = context::fiber(std::allocator_arg,
                                context::preallocated(stack.sp, stack.size, stack),
                                KeepStack{}, [&fiber](context::fiber&& scheduler) {
                                  fiber.scheduler = std::move(scheduler);
                                  block->kernel->body();
                                  EndThread(fiber);
                                  fiber.state = State::kDone;
                                  ++block->done;
                                  return std::move(fiber.scheduler);
                                });
  }
}

// Memory beyond a block's variables starts at a multiple of 16 and of nothing larger.
constexpr std::size_t kDynamicAlignment = 16;

void StartBlock(const Kernel& kernel, std::uint32_t launch, std::size_t index) {
  block->kernel = &kernel;
  block->launch = launch;
  block->epoch = 0;
  const dim3 grid = kernel.launch.grid, size = kernel.launch.block;
  block->num_threads = std::size_t{size.x} * size.y * size.z;
  block->done = block->at_barrier = 0;
  block->order.resize(block->num_threads);
  std::iota(block->order.begin(), block->order.end(), std::size_t{0});
  if (order == Order::kBackward) std::reverse(block->order.begin(), block->order.end());
  PoisonSharedVariables();
  // Fresh, of this size and filled with NaNs: what a block before left is not there.
  block->dynamic_bytes = kernel.launch.shared_bytes;
  void* const memory =
      TakePages(kDynamicAlignment + kernel.launch.shared_bytes, 2 * kDynamicAlignment);
  std::memset(memory, 0xff, kDynamicAlignment + kernel.launch.shared_bytes);
  block->dynamic = static_cast<unsigned char*>(memory) + kDynamicAlignment;
  StartFibers(index, {static_cast<unsigned>(index % grid.x),
                      static_cast<unsigned>(index / grid.x % grid.y),
                      static_cast<unsigned>(index / grid.x / grid.y)});
}

// Until all threads have ended or, in a block that is held, none goes on.
void RunThreads() {
  while (block->done < block->num_threads) {
    if (order == Order::kShuffled)
      std::shuffle(block->order.begin(), block->order.end(), shuffle);
    bool moved = false;
    for (const std::size_t i : block->order) {
      if (block->fibers[i]->state != State::kReady) continue;
      moved = true;
      Resume(*block->fibers[i]);
      ReleaseBarrier();
    }
    if (moved) continue;
    if (block->held) return;
    Die("threads wait for a barrier or for a lane that never comes");
  }
}

void EndBlock() {
  if (Counting()) EndRequests(block->kernel->launch.name);
  std::free(block->dynamic - kDynamicAlignment);
  block->dynamic = nullptr;
}

// Runs one block of the next kernel up to where it waits for the one before.
void Hold(const Kernel& next, std::size_t index) {
  block->held = true;
  held_index = index;
  StartBlock(next, launches + 1, index);
  RunThreads();
  // Or they would count as those of the kernel that runs first.
  if (Counting()) EndRequests(next.launch.name);
  block->variables = SaveSharedVariables();
}

void Release() {
  RestoreSharedVariables(block->variables);
  block->held = false;
  for (std::size_t i = 0; i < block->num_threads; ++i)
    if (block->fibers[i]->state == State::kAwaiting)
      block->fibers[i]->state = State::kReady;
  RunThreads();
  EndBlock();
}

// The blocks of a grid as they take their turns.
std::vector<std::size_t> BlockOrder(dim3 grid) {
  std::vector<std::size_t> indices(std::size_t{grid.x} * grid.y * grid.z);
  std::iota(indices.begin(), indices.end(), std::size_t{0});
  if (order == Order::kBackward) std::reverse(indices.begin(), indices.end());
  if (order == Order::kShuffled) std::shuffle(indices.begin(), indices.end(), shuffle);
  return indices;
}

// Waits for every lane of the mask to have left something; which set it was left in.
unsigned Meet(unsigned mask, const void* in, std::size_t bytes) {
  if (bytes > kSlotBytes) Die("a warp exchanges too much at once");
  Warp& warp = block->warps[running->thread.warp];
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
    for (unsigned i = 0; i < kWarp && first + i < block->num_threads; ++i)
      if ((mask >> i & 1u) != 0 && block->fibers[first + i]->state == State::kInWarp)
        block->fibers[first + i]->state = State::kReady;
  }
  return turn;
}

bool InDynamic(const void* p, std::size_t bytes) {
  const auto* const at = static_cast<const unsigned char*>(p);
  return at >= block->dynamic && at + bytes <= block->dynamic + block->dynamic_bytes;
}

void CheckAligned(const void* p, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0)
    Die("an address of a vector is no multiple of its size");
}

void Do(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    if (Watching()) OnCopyEnd(copy.to, copy.bytes + copy.zeros);
    if (copy.bytes > 0) std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
  }
}

}  // namespace

void Die(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s%s%s\n", what,
               running != nullptr ? ", in " : "",
               running != nullptr ? block->kernel->launch.name : "");
  std::abort();
}

std::int64_t NumKernels() { return launches; }

void BlockBarrier() {
  ++block->at_barrier;
  Yield(State::kAtBarrier);
}

void Exchange(unsigned mask, const void* in, void* out, std::size_t bytes,
              unsigned from) {
  const unsigned turn = Meet(mask, in, bytes);
  if ((mask >> from & 1u) == 0) Die("a lane is read that does not take part");
  std::memcpy(out, block->warps[running->thread.warp].slots[turn][from], bytes);
}

void Gather(unsigned mask, const void* in, std::size_t bytes,
            void (*combine)(const unsigned char (*all)[kSlotBytes], unsigned lane,
                            void* out),
            void* out) {
  const unsigned turn = Meet(mask, in, bytes);
  combine(block->warps[running->thread.warp].slots[turn].data(), running->thread.lane,
          out);
}

void Load(void* to, const void* p, std::size_t bytes) {
  CheckAligned(p, bytes);
  if (Watching()) OnUse(p, bytes, Use::kRead, __builtin_return_address(0));
  std::memcpy(to, p, bytes);
}

void Store(void* p, const void* from, std::size_t bytes) {
  CheckAligned(p, bytes);
  if (Watching()) OnUse(p, bytes, Use::kWrite, __builtin_return_address(0));
  std::memcpy(p, from, bytes);
}

void AsyncCopy(void* to, const void* from, std::size_t bytes, std::size_t zeros) {
  CheckAligned(to, bytes + zeros);
  CheckAligned(from, bytes + zeros);
  if (!InDynamic(to, bytes + zeros) && !InSharedVariables(to, bytes + zeros))
    Die("an asynchronous copy goes beyond the block's memory");
  if (!InMemory(from, bytes, Place::kDevice))
    Die("an asynchronous copy comes from where no device memory is");
  if (Watching()) {
    const void* const place = __builtin_return_address(0);
    OnUse(from, bytes, Use::kRead, place);
    OnCopyBegin(to, bytes + zeros, place);
  }
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

void* DynamicShared() { return block->dynamic; }

void AwaitLaunch() {
  running->awaited = true;
  if (block->held) Yield(State::kAwaiting);
  running->user.waited = true;
}

void RunKernel(const Kernel& kernel, const Kernel* next) {
  Block* const own = block;
  Block* const other = block == &blocks[0] ? &blocks[1] : &blocks[0];
  const bool held = own->held;
  const std::size_t own_index = held_index;
  ++launches;
  if (!kernel.launch.dependent) SetOverlapped(launches);
  if (next != nullptr) {
    block = other;
    Hold(*next, BlockOrder(next->launch.grid).front());
    block = own;
  }
  if (held) Release();
  for (const std::size_t index : BlockOrder(kernel.launch.grid)) {
    if (held && index == own_index) continue;
    StartBlock(kernel, launches, index);
    RunThreads();
    EndBlock();
  }
  if (next != nullptr) block = other;
  current = nullptr;
  running = nullptr;
}

void SetOrder(Order value) { order = value; }
void EndOverlap() { SetOverlapped(launches + 1); }
bool OnShared(const void* p) { return InDynamic(p, 1) || InSharedVariables(p, 1); }
bool OnStack(const void* p) {
  return blocks[0].stacks.Have(p) || blocks[1].stacks.Have(p);
}

}  // namespace emulation

unsigned atomicAdd(unsigned* p, unsigned value) {
  if (emulation::Watching())
    emulation::OnUse(p, sizeof *p, emulation::Use::kAtomic, __builtin_return_address(0));
  return std::exchange(*p, *p + value);
}

unsigned __ballot_sync(unsigned mask, bool value) {
  struct Vote {
    unsigned mask;
    bool value;
  };
  const Vote mine = {mask, value};
  unsigned votes = 0;
  emulation::Gather(
      mask, &mine, sizeof mine,
      [](const unsigned char(*all)[emulation::kSlotBytes], unsigned lane, void* out) {
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
