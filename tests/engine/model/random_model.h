// Models of any shape with random weights, for tests that need a model directory.
//
// The weights are scaled so that activations stay near one and every term of the model
// changes the logits. The same config and seed give the same files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/stored_tensor.h"
#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {

// The smallest model that has every kind of layer: one Finch-C2 layer below one GOLD
// layer, D = 64, 16 tokens.
ModelConfig SmallestConfig();

// A config.json that ParseModelConfig reads back as `config`.
std::string ConfigJson(const ModelConfig& config);

// All tensors the config asks for, the unused ones included.
std::vector<TensorToWrite> RandomTensors(const ModelConfig& config, std::uint64_t seed,
                                         StoredType type = StoredType::kBf16);

// The tensor of that name (CHECK: there is one).
TensorToWrite& TensorNamed(std::vector<TensorToWrite>& tensors, std::string_view name);

// Writes config.json and model.safetensors into an existing folder.
void WriteModel(const std::filesystem::path& dir, const ModelConfig& config,
                const std::vector<TensorToWrite>& tensors);

}  // namespace goldfinch
