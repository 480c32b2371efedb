#include "engine/backend/cpu_pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

#include "engine/backend/host_weights.h"
#include "engine/check.h"
#include "engine/kernels/cpu/panel_index.h"

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

// `scales` is of the whole matrix; used where `storage` has them.
void PackPanel(const HostMatrix& weights, const GemmPanels& panels, std::int64_t panel,
               std::byte* out, float* scales) {
  const std::int64_t first = panel * kPanelColumns;
  const std::int64_t count = std::min(kPanelColumns, panels.out - first);
  for (std::int64_t n = 0; n < count; ++n) {
    const float scale =
        StoreRow(weights, first + n, panels.storage, out,
                 [&](std::int64_t k) { return PanelIndex(panels.pairs, n, k); });
    if (IsScaled(panels.storage)) scales[first + n] = scale;
  }
}

}  // namespace

std::unique_ptr<DeviceMemory> AllocateHostMemory(std::int64_t bytes) {
  GOLDFINCH_CHECK(bytes >= 0);
  return std::make_unique<HostMemory>(bytes);
}

std::unique_ptr<PackedWeights> PackForCpu(const HostMatrix& weights, DType type,
                                          DType storage, bool pairs, ThreadPool& pool) {
  GOLDFINCH_CHECK(storage == type || IsScaled(storage));
  GemmPanels panels;
  panels.type = type;
  panels.storage = storage;
  panels.pairs = pairs;
  panels.in = weights.cols;
  panels.out = weights.rows;
  const std::int64_t padded_in = pairs ? (weights.cols + 1) / 2 * 2 : weights.cols;
  panels.panel_bytes = padded_in * kPanelColumns * SizeOf(storage);
  const std::int64_t count = (weights.rows + kPanelColumns - 1) / kPanelColumns;
  const std::int64_t panel_bytes = count * panels.panel_bytes;
  const std::int64_t scale_bytes =
      IsScaled(storage) ? count * kPanelColumns * static_cast<std::int64_t>(sizeof(float))
                        : 0;
  std::unique_ptr<DeviceMemory> memory = AllocateHostMemory(panel_bytes + scale_bytes);
  auto* bytes = static_cast<std::byte*>(memory->data());
  auto* scales = reinterpret_cast<float*>(bytes + panel_bytes);
  panels.data = bytes;
  if (IsScaled(storage)) panels.scales = scales;
  pool.ParallelFor(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel)
      PackPanel(weights, panels, panel, bytes + panel * panels.panel_bytes, scales);
  });
  return std::make_unique<CpuPackedWeights>(panels, std::move(memory),
                                            panel_bytes + scale_bytes);
}

}  // namespace goldfinch
