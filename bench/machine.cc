#include "bench/machine.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "bench/median.h"
#include "engine/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace goldfinch {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

// Each thread on a processor of its own, where the system says which it may use.
void Pin(int thread) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  int skip = thread % std::max(1, CPU_COUNT(&allowed));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || skip-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    static_cast<void>(sched_setaffinity(0, sizeof one, &one));
    return;
  }
}

// The median of `passes` of measure().
template <typename Measure>
double MedianOf(int passes, const Measure& measure) {
  std::vector<double> values;
  for (int i = 0; i < passes; ++i) values.push_back(measure());
  return Median(std::move(values));
}

// Runs body(thread) on every thread at once and returns how long the slowest took.
double Together(int threads, const std::function<void(int)>& body) {
  std::atomic<int> ready{0};
  std::vector<std::thread> workers;
  std::vector<double> seconds(static_cast<std::size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      Pin(i);
      ready.fetch_add(1);
      while (ready.load() < threads) std::this_thread::yield();
      const auto start = Clock::now();
      body(i);
      seconds[static_cast<std::size_t>(i)] = Seconds(start);
    });
  }
  for (std::thread& worker : workers) worker.join();
  return *std::max_element(seconds.begin(), seconds.end());
}

#if defined(__x86_64__)
constexpr int kChains = 12;  // enough to hide the latency of one instruction
constexpr std::int64_t kRounds = 4'000'000;

__attribute__((target("avx512f,avx512bf16"))) float Bf16Dots() {
  __m512 sums[kChains];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const auto one = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (std::int64_t i = 0; i < kRounds; ++i) {
    for (auto& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, one, one);
      asm volatile("" : "+v"(sum));
    }
  }
  return sums[0][0];
}

__attribute__((target("avx512f"))) float F32Fmas512() {
  __m512 sums[kChains];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const __m512 one = _mm512_set1_ps(1.0f);
  for (std::int64_t i = 0; i < kRounds; ++i) {
    for (auto& sum : sums) {
      sum = _mm512_fmadd_ps(one, one, sum);
      asm volatile("" : "+v"(sum));
    }
  }
  return sums[0][0];
}

__attribute__((target("avx2,fma"))) float F32Fmas256() {
  __m256 sums[kChains];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  const __m256 one = _mm256_set1_ps(1.0f);
  for (std::int64_t i = 0; i < kRounds; ++i) {
    for (auto& sum : sums) {
      sum = _mm256_fmadd_ps(one, one, sum);
      asm volatile("" : "+x"(sum));
    }
  }
  return sums[0][0];
}
#elif defined(__aarch64__)
constexpr int kChains = 16;
constexpr std::int64_t kRounds = 4'000'000;

float F32Fmas128() {
  float32x4_t sums[kChains];
  for (auto& sum : sums) sum = vdupq_n_f32(0.0f);
  const float32x4_t one = vdupq_n_f32(1.0f);
  for (std::int64_t i = 0; i < kRounds; ++i) {
    for (auto& sum : sums) {
      sum = vfmaq_f32(sum, one, one);
      asm volatile("" : "+w"(sum));
    }
  }
  return sums[0][0];
}
#endif

struct PeakLoop {
  float (*run)();
  double flops;  // of one run
};

#if defined(__x86_64__)
double FlopsAlone(const PeakLoop& loop) {
  double most = 0;
  for (int i = 0; i < 3; ++i) {
    const auto start = Clock::now();
    volatile float sink = loop.run();
    static_cast<void>(sink);
    most = std::max(most, loop.flops / Seconds(start));
  }
  return most;
}
#endif

// Of bf16 the instruction for pairs, or float32 where that has more: on some processors
// it takes four times as long as a fused product of float32, of which it is two.
PeakLoop BestLoop(bool bf16) {
#if defined(__x86_64__)
  constexpr double kOps = 2.0 * kChains * static_cast<double>(kRounds);
  const PeakLoop pairs = {Bf16Dots, kOps * 32}, f32 = {F32Fmas512, kOps * 16};
  if (bf16 && __builtin_cpu_supports("avx512bf16")) {
    static const bool pairs_pay = FlopsAlone(pairs) > FlopsAlone(f32);
    return pairs_pay ? pairs : f32;
  }
  if (__builtin_cpu_supports("avx512f")) return f32;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {F32Fmas256, kOps * 8};
  return {nullptr, 0};
#elif defined(__aarch64__)
  static_cast<void>(bf16);
  return {F32Fmas128, 2.0 * kChains * static_cast<double>(kRounds) * 4};
#else
  static_cast<void>(bf16);
  return {nullptr, 0};
#endif
}

}  // namespace

double ReadBandwidth(int threads, int passes) {
  constexpr std::size_t kBytes = std::size_t{1} << 29;
  static const std::uint64_t* const buffer = [] {
    void* p =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    GOLDFINCH_CHECK(p != MAP_FAILED);
    madvise(p, kBytes, MADV_HUGEPAGE);
    auto* words = static_cast<std::uint64_t*>(p);
    for (std::size_t i = 0; i < kBytes / 8; ++i) words[i] = i;  // distinct pages
    return words;
  }();
  const std::size_t part = kBytes / 8 / static_cast<std::size_t>(threads);
  std::atomic<std::uint64_t> sink{0};
  return MedianOf(passes, [&] {
    const double seconds = Together(threads, [&](int thread) {
      const std::uint64_t* p = buffer + part * static_cast<std::size_t>(thread);
      std::uint64_t sums[8] = {};
      for (std::size_t i = 0; i + 8 <= part; i += 8)
        for (std::size_t j = 0; j < 8; ++j) sums[j] += p[i + j];
      for (const std::uint64_t sum : sums) sink.fetch_add(sum);
    });
    return static_cast<double>(part * 8) * threads / seconds;
  });
}

double PeakFlops(int threads, bool bf16, int passes) {
  const PeakLoop loop = BestLoop(bf16);
  if (loop.run == nullptr) return 0;
  return MedianOf(passes, [&] {
    volatile float sink = 0;
    const double seconds = Together(threads, [&](int) { sink = loop.run(); });
    return loop.flops * threads / seconds;
  });
}

}  // namespace goldfinch
