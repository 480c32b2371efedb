#include "bench/limits.h"

#include <cstddef>
#include <random>
#include <utility>
#include <vector>

#include "bench/machine.h"
#include "bench/op_inputs.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

// So many normal numbers, the same ones over and over: to draw each takes seconds.
std::vector<float> Normals(std::int64_t count) {
  constexpr std::size_t kDrawn = 65521;  // prime: no row or column is like its neighbour
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = i < kDrawn ? normal(random) : values[i - kDrawn];
  return values;
}

class OfCpu final : public Limits {
 public:
  OfCpu(int threads, bool bf16) : threads_(threads), bf16_(bf16) {}
  double Bandwidth(int passes) override { return ReadBandwidth(threads_, passes); }
  double PeakFlops(int passes) override {
    return goldfinch::PeakFlops(threads_, bf16_, passes);
  }

 private:
  const int threads_;
  const bool bf16_;
};

// Memory is taken for as long as something is measured: the engine wants it else.
class OfDevice final : public Limits {
 public:
  OfDevice(std::unique_ptr<Backend> backend, bool bf16, const DeviceLimitSizes& sizes)
      : backend_(std::move(backend)), bf16_(bf16), sizes_(sizes) {
    backend_->Prepare(sizes_.product, 1, 1);
  }
  double Bandwidth(int passes) override {
    return CopyBandwidth(*backend_, passes, sizes_.copy_bytes);
  }
  double PeakFlops(int passes) override {
    constexpr int kProducts = 4;  // a pass
    const std::int64_t n = sizes_.product;
    OpInputs inputs(*backend_);
    // Not all alike: a device takes less power for bits that do not change, and is then
    // faster than a model will ever see it.
    const std::vector<float> normals = Normals(n * n);
    const DType type = bf16_ ? DType::kBf16 : DType::kF32;
    const auto w = backend_->Pack({.data = std::as_bytes(std::span(normals)).data(),
                                   .stored = StoredType::kF32,
                                   .rows = n,
                                   .cols = n,
                                   .row_stride = n},
                                  type, type);
    Matrix x = {.data = inputs.Array(normals),
                .type = DType::kF32,
                .rows = n,
                .cols = n,
                .stride = n};
    if (bf16_) {
      const Matrix halves = inputs.Halves(n, n);
      backend_->Convert(x, halves);
      x = halves;
    }
    const Matrix y = inputs.Floats(n, n, 0.0f);
    const auto cube =
        static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
    return MedianRate(*backend_, passes, 2.0 * kProducts * cube, [&] {
      for (int i = 0; i < kProducts; ++i)
        backend_->Gemm({.x = x, .w = w.get(), .y = y, .prompt_rows = n});
    });
  }

 private:
  const std::unique_ptr<Backend> backend_;
  const bool bf16_;
  const DeviceLimitSizes sizes_;
};

}  // namespace

std::unique_ptr<Limits> CpuLimits(int threads, bool bf16) {
  return std::make_unique<OfCpu>(threads, bf16);
}

std::unique_ptr<Limits> DeviceLimits(std::unique_ptr<Backend> backend, bool bf16,
                                     const DeviceLimitSizes& sizes) {
  return std::make_unique<OfDevice>(std::move(backend), bf16, sizes);
}

double CopyBandwidth(Backend& backend, int passes, std::int64_t bytes) {
  constexpr int kCopies = 8;  // a pass
  OpInputs inputs(backend);
  void* const from = inputs.Bytes(bytes);
  void* const to = inputs.Bytes(bytes);
  return MedianRate(backend, passes, 2.0 * kCopies * static_cast<double>(bytes), [&] {
    for (int i = 0; i < kCopies; ++i) backend.CopyOnDevice(to, from, bytes);
  });
}

}  // namespace goldfinch
