#include "engine/backend/cpu_pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include "engine/bf16.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

class HostMemory final : public DeviceMemory {
 public:
  explicit HostMemory(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    if (bytes_ == 0) return;
    data_ =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      throw std::bad_alloc();
    }
    madvise(data_, bytes_, MADV_HUGEPAGE);  // advice only: a refusal costs speed
  }
  ~HostMemory() override {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  void* data() const override { return data_; }

 private:
  const std::size_t bytes_;
  void* data_ = nullptr;
};

template <typename T>
T ReadAs(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float Element(const HostMatrix& m, std::int64_t row, std::int64_t col) {
  const std::size_t size = m.stored == StoredType::kF32 ? 4 : 2;
  const std::byte* p =
      m.data + static_cast<std::size_t>(row * m.row_stride + col * m.col_stride) * size;
  if (m.stored == StoredType::kF32) return ReadAs<float>(p);
  if (m.stored == StoredType::kBf16) return Bf16ToFloat(ReadAs<std::uint16_t>(p));
  StoredTensor one;
  one.type = m.stored;
  one.data = p;
  one.size = size;
  float value;
  CopyToF32(one, std::span<float>(&value, 1));
  return value;
}

// Place of element (n, k) within its panel.
std::size_t PanelIndex(const GemmPanels& panels, std::int64_t n, std::int64_t k) {
  const std::int64_t index =
      panels.pairs ? (k / 2 * kPanelColumns + n) * 2 + k % 2 : k * kPanelColumns + n;
  return static_cast<std::size_t>(index);
}

void PackPanel(const HostMatrix& weights, const GemmPanels& panels, std::int64_t panel,
               std::byte* out) {
  const std::int64_t first = panel * kPanelColumns;
  const std::int64_t count = std::min(kPanelColumns, panels.out - first);
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t k = 0; k < panels.in; ++k) {
      const float value = Element(weights, first + n, k);
      const std::size_t at = PanelIndex(panels, n, k);
      if (panels.type == DType::kF32) {
        std::memcpy(out + at * sizeof(float), &value, sizeof value);
      } else {
        const std::uint16_t rounded = RoundToBf16(value);
        std::memcpy(out + at * sizeof rounded, &rounded, sizeof rounded);
      }
    }
  }
}

}  // namespace

std::unique_ptr<DeviceMemory> AllocateHostMemory(std::int64_t bytes) {
  GOLDFINCH_CHECK(bytes >= 0);
  return std::make_unique<HostMemory>(bytes);
}

std::unique_ptr<PackedWeights> PackForCpu(const HostMatrix& weights, DType type,
                                          bool pairs, ThreadPool& pool) {
  GemmPanels panels;
  panels.type = type;
  panels.pairs = pairs;
  panels.in = weights.cols;
  panels.out = weights.rows;
  const std::int64_t padded_in = pairs ? (weights.cols + 1) / 2 * 2 : weights.cols;
  panels.panel_bytes = padded_in * kPanelColumns * SizeOf(type);
  const std::int64_t count = (weights.rows + kPanelColumns - 1) / kPanelColumns;
  std::unique_ptr<DeviceMemory> memory = AllocateHostMemory(count * panels.panel_bytes);
  auto* bytes = static_cast<std::byte*>(memory->data());
  panels.data = bytes;
  pool.ParallelFor(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel)
      PackPanel(weights, panels, panel, bytes + panel * panels.panel_bytes);
  });
  return std::make_unique<CpuPackedWeights>(panels, std::move(memory));
}

}  // namespace goldfinch
