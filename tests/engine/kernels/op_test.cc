#include "tests/engine/kernels/op_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/backend/cpu_backend.h"
#include "engine/bf16.h"
#include "engine/kernels/cpu/tables.h"
#include "tests/emulation/emulated_backend.h"

namespace goldfinch {
namespace {

// Foreign elements left of a row, and right of it: an odd number, or not.
constexpr std::int64_t kLeft = 32, kRight = 5, kAlignedRight = 8;

std::int64_t RowBytes(const Matrix& m) { return m.cols * SizeOf(m.type); }

// Offset in bytes of a row of the view within its memory.
std::int64_t RowOffset(const Matrix& m, std::int64_t row) {
  return ((row + 1) * m.stride + kLeft) * SizeOf(m.type);
}

float ToFloat(const std::uint8_t* p, DType type) {
  if (type == DType::kBf16) {
    std::uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return Bf16ToFloat(half);
  }
  float value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

void FromDouble(double value, DType type, std::uint8_t* p) {
  const auto f32 = static_cast<float>(value);
  if (type == DType::kBf16) {
    const std::uint16_t half = std::isnan(f32) ? 0x7fc0 : RoundToBf16(f32);
    std::memcpy(p, &half, sizeof half);
  } else {
    std::memcpy(p, &f32, sizeof f32);
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const BackendCase& backend) {
  return out << backend.isa << " on " << backend.num_threads << " threads";
}

std::vector<BackendCase> BackendCases() {
  std::vector<BackendCase> cases;
  for (const int threads : {1, 2}) {
    for (const std::string& isa : CpuIsas()) cases.push_back({isa, threads});
  }
  cases.push_back({"cuda_emulated", 1, Device::kEmulatedCuda});
  cases.push_back({"cuda", 1, Device::kCuda});
  // What tests have is little work for a large device, for which few kernels are chosen;
  // here those that large models have there, as on the emulated device.
  cases.push_back({"cuda_small", 1, Device::kCuda, 4});
  return cases;
}

std::string BackendCaseName(const testing::TestParamInfo<BackendCase>& info) {
  return info.param.isa + "_t" + std::to_string(info.param.num_threads);
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendCase& backend) {
  CudaBackendOptions options = cuda_emulated::kTightOptions;
  options.multiprocessors = backend.multiprocessors;
  switch (backend.device) {
    case Device::kCpu:
      return CreateCpuBackend({.isa = backend.isa, .num_threads = backend.num_threads});
    case Device::kEmulatedCuda:
#if defined(__SANITIZE_THREAD__)
      return absl::UnavailableError("the thread sanitizer does not follow fibers");
#endif
      return cuda_emulated::CreateCudaBackend(options);
    case Device::kCuda:
#if defined(GOLDFINCH_HAS_CUDA)
      return cuda::CreateCudaBackend(options);
#endif
      break;
  }
  return absl::UnavailableError("this build has no CUDA");
}

void OpTest::SetUp() {
  auto backend = MakeBackend(GetParam());
  if (absl::IsFailedPrecondition(backend.status()) ||
      absl::IsUnavailable(backend.status()))
    GTEST_SKIP() << backend.status().message();
  ASSERT_TRUE(backend.ok()) << backend.status();
  backend_ = *std::move(backend);
}

Tensor::Tensor(Backend& backend, std::int64_t rows, std::int64_t cols, DType type,
               Rows starts)
    : backend_(backend) {
  const std::int64_t right = starts == Rows::kAligned ? kAlignedRight : kRight;
  view_ = {.type = type, .rows = rows, .cols = cols, .stride = kLeft + cols + right};
  const std::int64_t bytes = (rows + 2) * view_.stride * SizeOf(type);
  memory_ = backend.Allocate(bytes);
  const std::vector<std::uint8_t> foreign(static_cast<std::size_t>(bytes), 0xff);
  backend.CopyToDevice(memory_->data(), foreign.data(), bytes);
  view_.data = static_cast<char*>(memory_->data()) + RowOffset(view_, 0);
}

Tensor::Tensor(Backend& backend, const Grid& values, DType type, Rows starts)
    : Tensor(backend, values.rows(), values.cols(), type, starts) {
  std::vector<std::uint8_t> bytes = Bytes();
  for (std::int64_t i = 0; i < values.rows(); ++i)
    for (std::int64_t j = 0; j < values.cols(); ++j)
      FromDouble(values(i, j), type,
                 bytes.data() + RowOffset(view_, i) + j * SizeOf(type));
  backend.CopyToDevice(memory_->data(), bytes.data(),
                       static_cast<std::int64_t>(bytes.size()));
}

std::vector<std::uint8_t> Tensor::Bytes() const {
  const std::int64_t count = (view_.rows + 2) * view_.stride * SizeOf(view_.type);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
  backend_.Synchronize();
  backend_.CopyToHost(bytes.data(), memory_->data(), count);
  return bytes;
}

Grid Tensor::Read() const {
  const std::vector<std::uint8_t> bytes = Bytes();
  Grid values(view_.rows, view_.cols);
  for (std::int64_t i = 0; i < view_.rows; ++i)
    for (std::int64_t j = 0; j < view_.cols; ++j)
      values(i, j) = static_cast<double>(ToFloat(
          bytes.data() + RowOffset(view_, i) + j * SizeOf(view_.type), view_.type));
  return values;
}

std::vector<RowBits> Tensor::Bits() const {
  const std::vector<std::uint8_t> bytes = Bytes();
  std::vector<RowBits> rows;
  for (std::int64_t i = 0; i < view_.rows; ++i) {
    const auto begin = bytes.begin() + RowOffset(view_, i);
    rows.emplace_back(begin, begin + RowBytes(view_));
  }
  return rows;
}

bool Tensor::SurroundingsAreIntact() const {
  std::vector<std::uint8_t> bytes = Bytes();
  for (std::int64_t i = 0; i < view_.rows; ++i)
    std::fill_n(bytes.begin() + RowOffset(view_, i), RowBytes(view_), 0xff);
  return std::all_of(bytes.begin(), bytes.end(), [](auto b) { return b == 0xff; });
}

std::unique_ptr<PackedWeights> PackWeights(Backend& backend, const Grid& w, DType type,
                                           DType storage) {
  std::vector<float> flat;
  for (std::int64_t i = 0; i < w.rows(); ++i)
    for (std::int64_t j = 0; j < w.cols(); ++j)
      flat.push_back(static_cast<float>(w(i, j)));
  const HostMatrix host = {.data = reinterpret_cast<const std::byte*>(flat.data()),
                           .stored = StoredType::kF32,
                           .rows = w.rows(),
                           .cols = w.cols(),
                           .row_stride = w.cols()};
  return backend.Pack(host, type, storage);
}

DeviceArray<float> FlatArray(Backend& backend, const Grid& values) {
  std::vector<float> flat;
  for (std::int64_t i = 0; i < values.rows(); ++i)
    for (std::int64_t j = 0; j < values.cols(); ++j)
      flat.push_back(static_cast<float>(values(i, j)));
  return DeviceArray<float>(backend, std::move(flat));
}

Grid ReadGrid(const DeviceArray<float>& array, std::int64_t rows, std::int64_t cols) {
  const std::vector<float> flat = array.Read();
  Grid values(rows, cols);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      values(i, j) = static_cast<double>(flat[static_cast<std::size_t>(i * cols + j)]);
  return values;
}

std::vector<RowBits> RowsOf(const DeviceArray<float>& array, std::int64_t rows) {
  const std::vector<float> flat = array.Read();
  const std::size_t bytes = flat.size() * sizeof(float) / static_cast<std::size_t>(rows);
  std::vector<RowBits> result;
  for (std::size_t at = 0; at < flat.size() * sizeof(float); at += bytes)
    result.emplace_back(reinterpret_cast<const char*>(flat.data()) + at, bytes);
  return result;
}

DeviceSpans::DeviceSpans(Backend& backend, const reference::Spans& spans)
    : count(static_cast<std::int32_t>(spans.slot.size())),
      begin(backend, spans.begin),
      slot(backend, spans.slot),
      next_slot(backend, spans.next_slot) {}

RowSpans DeviceSpans::get() const {
  return {.count = count,
          .begin = begin.data(),
          .slot = slot.data(),
          .next_slot = next_slot.size() > 0 ? next_slot.data() : slot.data()};
}

DeviceNorm::DeviceNorm(Backend& backend, const reference::Norm& norm)
    : weight(FlatArray(backend, norm.weight)),
      bias(FlatArray(backend, norm.bias)),
      eps(norm.eps) {}

NormWeights DeviceNorm::get() const {
  return {.weight = weight.data(), .bias = bias.data(), .eps = static_cast<float>(eps)};
}

Grid RandomGrid(std::int64_t rows, std::int64_t cols, std::uint64_t seed, DType type,
                double scale) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0.0, scale);
  Grid values(rows, cols);
  return Rounded(Each([&](double) { return normal(random); }, values), type);
}

Grid Rounded(const Grid& values, DType type) {
  const auto one = [type](double v) {
    std::uint8_t bytes[sizeof(float)];
    FromDouble(v, type, bytes);
    return static_cast<double>(ToFloat(bytes, type));
  };
  return Each(one, values);
}

reference::Norm RandomNorm(std::int64_t cols, std::uint64_t seed, double eps) {
  return {.weight = RandomGrid(1, cols, seed),
          .bias = RandomGrid(1, cols, seed + 1),
          .eps = static_cast<double>(static_cast<float>(eps))};
}

void ExpectClose(const Grid& got, const Grid& want, const Grid& tolerance) {
  ASSERT_EQ(got.rows(), want.rows());
  ASSERT_EQ(got.cols(), want.cols());
  for (std::int64_t i = 0; i < want.rows(); ++i) {
    for (std::int64_t j = 0; j < want.cols(); ++j) {
      const bool both_nan = std::isnan(got(i, j)) && std::isnan(want(i, j));
      if (both_nan || got(i, j) == want(i, j)) continue;
      const double error = std::abs(got(i, j) - want(i, j));
      ASSERT_LE(error, tolerance(i, j))
          << "at (" << i << ", " << j << ") of [" << want.rows() << ", " << want.cols()
          << "]: got " << got(i, j) << ", want " << want(i, j);
    }
  }
}

Grid WithRounding(const Grid& tolerance, const Grid& want, DType type) {
  if (type == DType::kF32) return tolerance;
  return Each([](double t, double v) { return t + (std::abs(v) + t) * kBf16Unit; },
              tolerance, want);
}

void ExpectIsRounded(const Tensor& bf16, const Tensor& f32) {
  const Grid got = bf16.Read(), want = Rounded(f32.Read(), DType::kBf16);
  ExpectClose(got, want, Grid(want.rows(), want.cols()));
}

void ExpectRowsStandAlone(
    std::int64_t rows,
    const std::function<std::vector<RowBits>(std::int64_t, std::int64_t)>& run) {
  const std::vector<RowBits> all = run(0, rows);
  ASSERT_EQ(static_cast<std::int64_t>(all.size()), rows);
  const auto expect_same = [&](std::int64_t begin, std::int64_t end) {
    const std::vector<RowBits> some = run(begin, end - begin);
    const auto first = all.begin() + begin;
    ASSERT_TRUE(std::equal(some.begin(), some.end(), first, all.begin() + end))
        << "rows " << begin << " to " << end << " of " << rows;
  };
  for (std::int64_t i = 0; i < rows; ++i) expect_same(i, i + 1);
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    std::int64_t begin = 0;
    for (const std::int64_t end : RandomCut(rows, seed)) {
      expect_same(begin, end);
      begin = end;
    }
  }
}

std::vector<std::int64_t> RandomCut(std::int64_t rows, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int64_t> ends;
  for (std::int64_t at = 0; at < rows;) {
    const auto longest = static_cast<std::uint64_t>(random() % 4 == 0 ? 40 : 5);
    at = std::min(rows, at + 1 + static_cast<std::int64_t>(random() % longest));
    ends.push_back(at);
  }
  return ends;
}

}  // namespace goldfinch
