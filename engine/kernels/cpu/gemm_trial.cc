#include "engine/kernels/cpu/gemm_trial.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "engine/kernels/cpu/panel_index.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kTrialRows = 24, kTrialIn = 512, kTrialOut = 64;
static_assert(kTrialIn % 2 == 0 && kTrialOut % kPanelColumns == 0);

// bf16 of either sign with an exponent of `low` to `low` + 7, biased.
std::vector<std::uint16_t> Numbers(std::int64_t count, int low, std::mt19937& random) {
  std::vector<std::uint16_t> numbers(static_cast<std::size_t>(count));
  for (std::uint16_t& number : numbers) {
    const auto bits = static_cast<std::uint32_t>(random());
    const std::uint32_t exponent = static_cast<std::uint32_t>(low) + bits % 8;
    number = static_cast<std::uint16_t>((bits >> 8 & 0x807fu) | exponent << 7);
  }
  return numbers;
}

struct Products {
  Products() {
    std::mt19937 random(1);
    w = Numbers(kTrialOut * kTrialIn, 120, random);
    // The last rows have products next to the least normal number, and inputs below it.
    x = Numbers((kTrialRows - 4) * kTrialIn, 122, random);
    for (const int low : {3, 1, 0, 0}) {
      const std::vector<std::uint16_t> row = Numbers(kTrialIn, low, random);
      x.insert(x.end(), row.begin(), row.end());
    }
  }

  std::vector<std::uint16_t> x, w;
};

// Weights [kTrialOut, kTrialIn] as panels.
std::vector<std::uint16_t> Panels(const std::vector<std::uint16_t>& w, bool pairs) {
  std::vector<std::uint16_t> panels(w.size());
  for (std::int64_t n = 0; n < kTrialOut; ++n) {
    const std::int64_t first = n / kPanelColumns * kPanelColumns * kTrialIn;
    for (std::int64_t k = 0; k < kTrialIn; ++k)
      panels[static_cast<std::size_t>(first + PanelIndex(pairs, n % kPanelColumns, k))] =
          w[static_cast<std::size_t>(n * kTrialIn + k)];
  }
  return panels;
}

class Way {
 public:
  Way(const CpuKernels& kernels, Products& products)
      : kernels_(kernels),
        panels_(Panels(products.w, kernels.bf16_pairs)),
        y_(static_cast<std::size_t>(kTrialRows * kTrialOut)) {
    args_ = {.x = {.data = products.x.data(),
                   .type = DType::kBf16,
                   .rows = kTrialRows,
                   .cols = kTrialIn,
                   .stride = kTrialIn},
             .w = {.data = panels_.data(),
                   .type = DType::kBf16,
                   .storage = DType::kBf16,
                   .pairs = kernels.bf16_pairs,
                   .in = kTrialIn,
                   .out = kTrialOut,
                   .panel_bytes = kPanelColumns * kTrialIn * SizeOf(DType::kBf16)},
             .y = {.data = y_.data(),
                   .type = DType::kF32,
                   .rows = kTrialRows,
                   .cols = kTrialOut,
                   .stride = kTrialOut}};
  }

  double Seconds() {
    const auto start = std::chrono::steady_clock::now();
    kernels_.gemm(args_, 0, kTrialRows, 0, kTrialOut / kPanelColumns);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
        .count();
  }
  bool SameBits(const Way& other) const {
    return std::memcmp(y_.data(), other.y_.data(), y_.size() * sizeof(float)) == 0;
  }

 private:
  const CpuKernels& kernels_;
  const std::vector<std::uint16_t> panels_;
  std::vector<float> y_;
  GemmArgs args_;
};

}  // namespace

GemmTrial TryGemm(const CpuKernels& a, const CpuKernels& b) {
  Products products;
  Way ways[2] = {{a, products}, {b, products}};
  // The fastest of several turns: whatever else runs here can only make one slower.
  double seconds[2] = {std::numeric_limits<double>::infinity(),
                       std::numeric_limits<double>::infinity()};
  for (int turn = 0; turn < 16; ++turn)
    for (int i = 0; i < 2; ++i) seconds[i] = std::min(seconds[i], ways[i].Seconds());
  return {.same_bits = ways[0].SameBits(ways[1]), .ratio = seconds[0] / seconds[1]};
}

}  // namespace goldfinch
