#include "engine/backend/cpu_backend.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/kernels/cpu/tables.h"
#include "engine/sync/mutex.h"
#include "engine/sync/usable_cpus.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;

TEST(CpuBackendTest, UnknownInstructionSetIsRefusedByName) {
  const auto backend = CreateCpuBackend({.isa = "sse9", .num_threads = 1});
  EXPECT_TRUE(absl::IsInvalidArgument(backend.status()));
  EXPECT_THAT(backend.status().message(),
              HasSubstr("cpu_isa is sse9; it must be one of"));
  EXPECT_THAT(backend.status().message(), HasSubstr("plain"));
}

TEST(CpuBackendTest, PlainRunsEverywhereAndAutoPicksOneThatRuns) {
  const auto plain = CreateCpuBackend({.isa = "plain", .num_threads = 1});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT((*plain)->numerics(), HasSubstr("cpu-plain-v"));
  EXPECT_TRUE(CreateCpuBackend({.num_threads = 1}).ok());
}

#if defined(__linux__)
std::ptrdiff_t ThreadsOfThisProcess() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

// On a thread of its own, which may run on one processor and then on all again. Nothing
// ends in between: a thread that has ended is seen a moment longer.
TEST(CpuBackendTest, NoNumberOfThreadsMeansOneAProcessorThatMayBeUsed) {
  std::thread([] {
    cpu_set_t all, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    const std::ptrdiff_t before = ThreadsOfThisProcess();

    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(AllowedCpus(), 1);
    const auto single = CreateCpuBackend({.isa = "plain"});
    ASSERT_TRUE(single.ok());
    EXPECT_EQ(ThreadsOfThisProcess(), before);

    ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
    const auto many = CreateCpuBackend({.isa = "plain"});
    ASSERT_TRUE(many.ok());
    EXPECT_EQ(ThreadsOfThisProcess(), before + UsableCpus() - 1);
  }).join();
}
#endif

// Work of the pieces that a backend's threads are given: kernels that only count, in what
// takes one unit of time of each head, a tile or a row.
std::int64_t all_counted = 0, most_counted = 0;
Mutex counted_mu;
void Count(std::int64_t work) {
  MutexLock lock(counted_mu);
  all_counted += work;
  most_counted = std::max(most_counted, work);
}
CpuKernels CountingKernels() {
  CpuKernels kernels = **SelectCpuKernels("plain");
  kernels.attend = [](const AttendArgs& args, const AttendPart& part) {
    std::int64_t tiles = 0;
    for (std::int64_t i = part.run_begin; i < part.run_end; ++i) {
      const AttendRun& run = args.runs[i];
      const std::int64_t rows = std::min<std::int64_t>(run.row_end, part.row_end) -
                                std::max<std::int64_t>(run.row_begin, part.row_begin);
      if (rows > 0) tiles += rows * (run.tile_end - run.tile_begin);
    }
    Count(tiles * (part.head_end - part.head_begin));
  };
  kernels.wkv = [](const WkvArgs& args, std::int64_t begin, std::int64_t end) {
    std::int64_t rows = 0;
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int32_t* row = args.spans.begin + task / args.heads;
      rows += row[1] - row[0];
    }
    Count(rows);
  };
  return kernels;
}

// A hundred times as much to do for one sequence as for the others must not keep one
// thread busy while the others wait.
TEST(CpuBackendTest, ALongPastAndALongPromptAreSharedByAllThreads) {
  constexpr std::int64_t kSequences = 64, kHeads = 32;
  const CpuKernels kernels = CountingKernels();
  for (const int threads : {2, 4, 16}) {
    const auto backend = CpuBackendOf(kernels, threads, /*pin_threads=*/false);
    for (const std::int64_t at : {0, 31, 63}) {
      std::vector<std::int32_t> begin = {0};
      std::vector<AttendRun> runs;
      for (std::int32_t i = 0; i < kSequences; ++i) {
        begin.push_back(begin.back() + (i == at ? 1600 : 16));
        runs.push_back({.row_begin = i,
                        .row_end = i + 1,
                        .tile_begin = begin[static_cast<std::size_t>(i)],
                        .tile_end = begin.back()});
      }
      const auto num_runs = static_cast<std::int32_t>(runs.size());
      const std::int64_t all = kHeads * (63 * 16 + 1600);
      all_counted = most_counted = 0;
      backend->Attend({.q = {.rows = kSequences},
                       .heads = kHeads,
                       .runs = runs.data(),
                       .num_runs = &num_runs});
      EXPECT_EQ(all_counted, all);
      EXPECT_LT(most_counted, all / threads) << threads << " threads, it is " << at;

      all_counted = most_counted = 0;
      backend->Wkv(
          {.spans = {.count = kSequences, .begin = begin.data()}, .heads = kHeads});
      EXPECT_EQ(all_counted, all);
      EXPECT_LT(most_counted, all / threads) << threads << " threads, it is " << at;
    }
  }
}

// Rows that read a past together are one piece of work for a head, unless there would not
// be enough for all threads.
TEST(CpuBackendTest, RowsOfAPastAreCutApartOnlyForIdleThreads) {
  constexpr std::int32_t kRows = 100, kTiles = 1000;
  const CpuKernels kernels = CountingKernels();
  for (const std::int64_t heads : {2, 64}) {
    for (const int threads : {1, 2, 4, 16}) {
      const auto backend = CpuBackendOf(kernels, threads, /*pin_threads=*/false);
      const AttendRun runs[] = {
          {.row_begin = 0, .row_end = kRows, .tile_begin = 0, .tile_end = kTiles},
          {.row_begin = 3, .row_end = 5, .tile_begin = kTiles, .tile_end = kTiles + 8}};
      const std::int32_t num_runs = 2;
      all_counted = most_counted = 0;
      backend->Attend(
          {.q = {.rows = kRows}, .heads = heads, .runs = runs, .num_runs = &num_runs});
      const std::int64_t all = heads * (kRows * kTiles + 2 * 8);
      EXPECT_EQ(all_counted, all);
      EXPECT_LE(most_counted, all / threads * 5 / 4) << threads << " threads";
      EXPECT_GE(most_counted, all / threads / 8) << threads << " threads";
    }
  }
}

// That there are enough parts is not enough, if one past is nearly all of the work.
TEST(CpuBackendTest, APastOfManyRowsAmongShortOnesIsCutApart) {
  constexpr std::int32_t kRows = 16, kOthers = 48, kTiles = 1000;
  constexpr std::int64_t kHeads = 32;
  const CpuKernels kernels = CountingKernels();
  std::vector<AttendRun> runs = {
      {.row_begin = 0, .row_end = kRows, .tile_begin = 0, .tile_end = kTiles}};
  for (std::int32_t i = 0; i < kOthers; ++i)
    runs.push_back({.row_begin = kRows + i,
                    .row_end = kRows + i + 1,
                    .tile_begin = kTiles + i,
                    .tile_end = kTiles + i + 1});
  const auto num_runs = static_cast<std::int32_t>(runs.size());
  const std::int64_t all = kHeads * (kRows * kTiles + kOthers);
  for (const int threads : {2, 64}) {
    const auto backend = CpuBackendOf(kernels, threads, /*pin_threads=*/false);
    all_counted = most_counted = 0;
    backend->Attend({.q = {.rows = kRows + kOthers},
                     .heads = kHeads,
                     .runs = runs.data(),
                     .num_runs = &num_runs});
    EXPECT_EQ(all_counted, all);
    EXPECT_LE(most_counted, all / threads * 5 / 4) << threads << " threads";
  }
}

class BackendMemoryTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(BackendMemoryTest);

TEST_P(BackendMemoryTest, NumericsNameWhoseBitsAndNeitherTheInstructionSetNorTheThreads) {
  if (GetParam().device != Device::kCpu) GTEST_SKIP() << "of the CPU alone";
  const std::string& isa = GetParam().isa;
  EXPECT_EQ(backend().kernels(), isa);
  const std::string bits = (*SelectCpuKernels(isa))->numerics;
  EXPECT_THAT(backend().numerics(), testing::StartsWith("cpu-" + bits + "-v"));
}

TEST_P(BackendMemoryTest, MemoryIsZeroWhenAllocated) {
  for (const std::int64_t bytes : {1, 4097, 3 << 20}) {
    const auto memory = backend().Allocate(bytes);
    std::vector<char> host(static_cast<std::size_t>(bytes), 'x');
    backend().CopyToHost(host.data(), memory->data(), bytes);
    EXPECT_EQ(host, std::vector<char>(host.size(), 0));
  }
  EXPECT_NE(backend().Allocate(0), nullptr);
}

// Around the sizes from which a backend may copy in another way, from and to anywhere.
TEST_P(BackendMemoryTest, CopiesOfManyBytesWriteThoseAndNoOthers) {
  constexpr std::int64_t kRoom = (256 << 10) + 4096;
  std::vector<char> bytes(kRoom);
  std::mt19937 random(3);
  for (char& byte : bytes) byte = static_cast<char>(random());
  const auto device = backend().Allocate(kRoom);
  auto* const data = static_cast<char*>(device->data());
  for (const std::int64_t size :
       {1, 63, 64, 129, 4095, 4096, 4097, 8200, 20000, 256 << 10, (256 << 10) + 77}) {
    for (const std::int64_t to : {0, 1, 15, 64, 100}) {
      const std::int64_t from = 128 - to;
      backend().Zero(data, kRoom);
      backend().CopyToDevice(data + to, bytes.data() + from, size);
      std::vector<char> expect(kRoom, 0), got(kRoom, 'x');
      std::copy_n(bytes.begin() + from, size, expect.begin() + to);
      backend().CopyToHost(got.data(), data, kRoom);
      EXPECT_TRUE(got == expect) << size << " bytes to " << to;

      std::ranges::fill(got, 0);
      backend().CopyToHost(got.data() + from, data + to, size);
      std::ranges::fill(expect, 0);
      std::copy_n(bytes.begin() + from, size, expect.begin() + from);
      EXPECT_TRUE(got == expect) << size << " bytes from " << to;
    }
  }
}

TEST_P(BackendMemoryTest, CopiesAndZeroMoveTheBytesTheyName) {
  const std::string text = "recurrent state";
  const auto size = static_cast<std::int64_t>(text.size());
  const auto from = backend().Allocate(size), to = backend().Allocate(size);
  backend().CopyToDevice(from->data(), text.data(), size);
  backend().CopyOnDevice(to->data(), from->data(), size);
  backend().Zero(static_cast<char*>(to->data()) + 2, 3);
  backend().Synchronize();
  std::string got(text.size(), '?');
  backend().CopyToHost(got.data(), to->data(), size);
  EXPECT_EQ(got, std::string("re\0\0\0", 5) + text.substr(5));
}

// What the numerics id promises by not naming the number of threads.
TEST_P(BackendMemoryTest, BitsDoNotDependOnTheNumberOfThreads) {
  if (GetParam().device != Device::kCpu) GTEST_SKIP() << "of the CPU alone";
  std::set<std::vector<RowBits>> products, norms;
  for (const int threads : {1, 2, 3, 7}) {
    const auto other = CreateCpuBackend({.isa = GetParam().isa, .num_threads = threads});
    ASSERT_TRUE(other.ok());
    for (const std::int64_t rows : {1, 200}) {
      const Tensor x(**other, RandomGrid(200, 96, 1));
      const Tensor y(**other, rows, 300, DType::kF32), z(**other, rows, 96, DType::kF32);
      std::vector<float> w(300 * 96);
      for (std::size_t i = 0; i < w.size(); ++i)
        w[i] = 1.0f / static_cast<float>(1 + i % 71);
      const auto packed =
          (*other)->Pack({.data = reinterpret_cast<const std::byte*>(w.data()),
                          .rows = 300,
                          .cols = 96,
                          .row_stride = 96},
                         DType::kF32, DType::kF32);
      (*other)->Gemm({x->Rows(rows), packed.get(), *y});
      const std::vector<float> ones(96, 1.0f);
      (*other)->AddNorm({.a = x->Rows(rows),
                         .norm = {.weight = ones.data(), .bias = ones.data()},
                         .out = *z});
      if (rows == 200) products.insert(y.Bits());
      if (rows == 200) norms.insert(z.Bits());
    }
  }
  EXPECT_EQ(products.size(), 1u);
  EXPECT_EQ(norms.size(), 1u);
}

}  // namespace
}  // namespace goldfinch
