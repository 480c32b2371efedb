// What GetModel says about the model, beside what EngineInfo knows.
#pragma once

#include <cstdint>
#include <string>

namespace goldfinch {

struct ModelInfo {
  std::string name;
  std::int32_t num_layers = 0;
  std::int32_t num_gold_layers = 0;
  std::int32_t embedding_size = 0;
  std::int64_t num_parameters = 0;
  std::int64_t cache_bytes_per_token = 0;
  std::int64_t state_bytes_per_sequence = 0;
  std::int32_t training_context_tokens = 0;
};

}  // namespace goldfinch
