// Memory and packed weights of the CPU backend.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/backend/backend.h"
#include "engine/kernels/cpu/kernels.h"
#include "engine/sync/thread_pool.h"

namespace goldfinch {

// Zeroed, aligned to a page, in huge pages where the system grants them.
std::unique_ptr<DeviceMemory> AllocateHostMemory(std::int64_t bytes);

class CpuPackedWeights final : public PackedWeights {
 public:
  // `memory` holds what `panels` points to.
  CpuPackedWeights(const GemmPanels& panels, std::unique_ptr<DeviceMemory> memory,
                   std::int64_t bytes)
      : PackedWeights(panels.out, panels.in, bytes),
        panels_(panels),
        memory_(std::move(memory)) {}
  const GemmPanels& panels() const { return panels_; }

 private:
  const GemmPanels panels_;
  const std::unique_ptr<DeviceMemory> memory_;
};

// Panels as kernels.h describes them; weights are rounded to `storage` (`type`, kI8 or
// kFp8) when the file has them wider.
std::unique_ptr<PackedWeights> PackForCpu(const HostMatrix& weights, DType type,
                                          DType storage, bool pairs, ThreadPool& pool);

}  // namespace goldfinch
