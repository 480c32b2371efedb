// What a model of a shape must read and compute, from the shapes alone: the numerators
// of the limits in docs/performance.md.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace goldfinch {

// "12x768": paper defaults at that depth and width, vocabulary 65536.
absl::StatusOr<ModelConfig> ConfigOfShape(const std::string& shape);

struct ShapeCosts {
  double weight_bytes = 0;    // read once a step: everything but the embedding table
  double prompt_flops = 0;    // per prompt token: recurrent layers and compression
  double expand_flops = 0;    // keys and values of one token, all GOLD layers
  double state_bytes = 0;     // of one sequence
  double expanded_bytes = 0;  // keys and values of one token, all GOLD layers
  double cache_bytes = 0;     // of one token
};

// Bytes of an element: of the compute type, of the large matrices (1: int8, fp8) and of
// compressed keys (1: int8, with a scale of two bytes a row).
struct ElementBytes {
  std::int64_t compute = 2;
  std::int64_t weights = 2;
  std::int64_t cache = 2;
};

ShapeCosts CostsOf(const ModelConfig& config, const ElementBytes& bytes);

}  // namespace goldfinch
