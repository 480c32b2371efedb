// What every test of an op needs: the backends it runs on, matrices on a device with
// guarded surroundings, random values a device holds exactly, and comparisons.
//
// Device memory is reached through the backend alone, so that a backend with memory of
// its own is one more case of BackendCases().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "gtest/gtest.h"
#include "tests/reference/ops_reference.h"

namespace goldfinch {

using reference::Each;
using reference::Grid;

// Half an ulp at one: what one rounding to float32 or to bf16 costs, relative.
inline constexpr double kF32Unit = 0x1p-24;
inline constexpr double kBf16Unit = 0x1p-8;

enum class Device { kCpu, kEmulatedCuda, kCuda };

struct BackendCase {
  std::string isa;  // of the CPU; elsewhere the device's name
  int num_threads = 1;
  Device device = Device::kCpu;
  // That kernels of a CUDA device are chosen for; 0: its own.
  int multiprocessors = 0;
};
// INVALID_ARGUMENT, FAILED_PRECONDITION or UNAVAILABLE where this machine has none such.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendCase& backend);
std::ostream& operator<<(std::ostream& out, const BackendCase& backend);
std::vector<BackendCase> BackendCases();
std::string BackendCaseName(const testing::TestParamInfo<BackendCase>& info);

// Skips, saying so, on a backend this machine does not run.
class OpTest : public testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override;
  Backend& backend() { return *backend_; }
  // What exp may be off by, in kF32Unit of itself: ours, and a device's, of which two
  // ulps are documented.
  static double ExpUnits() { return GetParam().device == Device::kCuda ? 4 : 3; }

 private:
  std::unique_ptr<Backend> backend_;
};

#define GOLDFINCH_ON_ALL_BACKENDS(suite)                                       \
  INSTANTIATE_TEST_SUITE_P(Backends, suite, testing::ValuesIn(BackendCases()), \
                           BackendCaseName)

// The bytes of one row.
using RowBits = std::string;

// Where rows of a matrix start: anywhere, or at multiples of 16 bytes, as those of a
// model do (if columns are a multiple of 8).
enum class Rows { kAnywhere, kAligned };

// A matrix on the device. It is a view into more memory: foreign elements left and right
// of every row and a foreign row above and below, all of them NaN, so that reading them
// shows.
class Tensor {
 public:
  Tensor(Backend& backend, std::int64_t rows, std::int64_t cols, DType type,
         Rows starts = Rows::kAnywhere);
  Tensor(Backend& backend, const Grid& values, DType type = DType::kF32,
         Rows starts = Rows::kAnywhere);

  const Matrix& operator*() const { return view_; }
  const Matrix* operator->() const { return &view_; }

  Grid Read() const;
  std::vector<RowBits> Bits() const;
  // No byte outside the matrix was written.
  bool SurroundingsAreIntact() const;

 private:
  std::vector<std::uint8_t> Bytes() const;

  Backend& backend_;
  std::unique_ptr<DeviceMemory> memory_;
  Matrix view_;
};

// An array on the device, without surroundings.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(Backend& backend, std::vector<T> values)
      : backend_(backend), values_(std::move(values)) {
    const auto bytes = static_cast<std::int64_t>(values_.size() * sizeof(T));
    memory_ = backend.Allocate(bytes);
    if (bytes > 0) backend.CopyToDevice(memory_->data(), values_.data(), bytes);
  }
  T* data() const { return static_cast<T*>(memory_->data()); }
  std::int64_t size() const { return static_cast<std::int64_t>(values_.size()); }
  // Of the device as it is now.
  std::vector<T> Read() const {
    std::vector<T> now(values_.size());
    backend_.Synchronize();
    const auto bytes = static_cast<std::int64_t>(now.size() * sizeof(T));
    if (bytes > 0) backend_.CopyToHost(now.data(), memory_->data(), bytes);
    return now;
  }

 private:
  Backend& backend_;
  std::vector<T> values_;
  std::unique_ptr<DeviceMemory> memory_;
};

// A float32 matrix in an array, row after row.
inline Matrix MatrixOf(const DeviceArray<float>& array, std::int64_t cols) {
  return {array.data(), DType::kF32, array.size() / cols, cols, cols};
}

// Weights of y = x w^T.
std::unique_ptr<PackedWeights> PackWeights(Backend& backend, const Grid& w, DType type,
                                           DType storage);
inline std::unique_ptr<PackedWeights> PackWeights(Backend& backend, const Grid& w,
                                                  DType type) {
  return PackWeights(backend, w, type, type);
}

// A [rows, cols] float32 array that a kernel sees as a bare pointer: weights, states.
DeviceArray<float> FlatArray(Backend& backend, const Grid& values);
Grid ReadGrid(const DeviceArray<float>& array, std::int64_t rows, std::int64_t cols);
std::vector<RowBits> RowsOf(const DeviceArray<float>& array, std::int64_t rows);

// Spans, and norm weights, on the device.
struct DeviceSpans {
  DeviceSpans(Backend& backend, const reference::Spans& spans);
  RowSpans get() const;
  std::int32_t count;
  DeviceArray<std::int32_t> begin, slot, next_slot;
};
struct DeviceNorm {
  DeviceNorm(Backend& backend, const reference::Norm& norm);
  NormWeights get() const;
  DeviceArray<float> weight, bias;
  double eps;
};

// Normal values that `type` holds exactly.
Grid RandomGrid(std::int64_t rows, std::int64_t cols, std::uint64_t seed,
                DType type = DType::kF32, double scale = 1.0);
Grid Rounded(const Grid& values, DType type);
reference::Norm RandomNorm(std::int64_t cols, std::uint64_t seed, double eps = 1e-5);

// Every element within its tolerance; NaN only where NaN is wanted.
void ExpectClose(const Grid& got, const Grid& want, const Grid& tolerance);

// What `tolerance` of a float32 result becomes when the result is rounded to `type`.
Grid WithRounding(const Grid& tolerance, const Grid& want, DType type);

// A bf16 result is the float32 result of the same op rounded once, to nearest even.
void ExpectIsRounded(const Tensor& bf16, const Tensor& f32);

// The law of the house. `run(begin, count)` computes rows [begin, begin + count) in a
// call of their own and returns their bits: each row must have the bits it has among
// all `rows`, alone and in any cut.
void ExpectRowsStandAlone(
    std::int64_t rows,
    const std::function<std::vector<RowBits>(std::int64_t, std::int64_t)>& run);

// Cuts [0, rows) at random places; the last of the bounds is `rows`.
std::vector<std::int64_t> RandomCut(std::int64_t rows, std::uint64_t seed);

}  // namespace goldfinch
