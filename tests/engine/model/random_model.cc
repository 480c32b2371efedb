#include "tests/engine/model/random_model.h"

#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "absl/strings/str_format.h"
#include "engine/check.h"
#include "engine/model/tensor_layout.h"

namespace goldfinch {
namespace {

// Uniform in (-1, 1) from the generator's bits, so that no library decides the values.
class Uniform {
 public:
  explicit Uniform(std::uint64_t seed) : bits_(seed) {}
  float operator()() {
    const auto wide = static_cast<double>(bits_() >> 11) + 0.5;
    return static_cast<float>(wide * 0x1p-52 - 1.0);
  }

 private:
  std::mt19937_64 bits_;
};

struct Range {
  float centre = 0;
  float radius = 0;
};

// Of a product's factor with `fan_in` terms: its output has the spread of its input.
Range ForFanIn(std::int64_t fan_in) {
  return {.centre = 0, .radius = std::sqrt(3.0f / static_cast<float>(fan_in))};
}

Range RangeOf(const ExpectedTensor& tensor) {
  const std::string& name = tensor.name;
  const std::vector<std::int64_t>& shape = tensor.shape;
  if (name.ends_with(".bias")) return {.centre = 0, .radius = 0.2f};
  if (name.ends_with("time_decay")) return {.centre = -2, .radius = 3};
  if (name.ends_with("time_faaaa") || name == "emb.weight") return {0, 1};
  if (name.ends_with("_w1")) return ForFanIn(shape[0]);
  if (name.ends_with("_w2")) return ForFanIn(shape[shape.size() - 2] * 4);
  if (name.ends_with(".weight")) {
    return shape.size() == 1 ? Range{1, 0.3f} : ForFanIn(shape[1]);
  }
  return {.centre = 0.5f, .radius = 0.5f};  // time_maa_*: how much of the token before
}

bool IsTokenShift(const std::string& name) {
  return name.find(".time_") != std::string::npos;
}

}  // namespace

ModelConfig SmallestConfig() {
  ModelConfig config;
  config.n_layer = 2;
  config.n_embd = config.dim_att = config.dim_ffn = 64;
  config.vocab_size = 16;
  config.inv_other_layer_ratio = 2;
  config.kv_cache_compression_ratio = 16;
  config.ctx_len = 128;
  return config;
}

std::string ConfigJson(const ModelConfig& config) {
  std::string rope = "null";
  if (config.rope.has_value()) {
    rope = absl::StrFormat(R"({"base": %.17g, "rescale": %.17g, "rebase": %.17g})",
                           config.rope->base, config.rope->rescale, config.rope->rebase);
  }
  return absl::StrFormat(
      R"({"tmix": "%s", "tmix2": "%s", "cmix": "x060", "cmix2": "x060", "n_layer": %d,
 "n_embd": %d, "vocab_size": %d, "dim_att": %d, "dim_ffn": %d, "head_size": %d,
 "head_size_divisor": %.17g, "inv_other_layer_ratio": %d,
 "kv_cache_compression_ratio": %d, "ctx_len": %d, "use_one_minus_w": %d, "use_v2": %d,
 "rope": %s})",
      config.tmix == TimeMix::kFinchC2 ? "x060c2" : "x060", config.gold ? "gold" : "",
      config.n_layer, config.n_embd, config.vocab_size, config.dim_att, config.dim_ffn,
      config.head_size, config.head_size_divisor, config.inv_other_layer_ratio,
      config.kv_cache_compression_ratio, config.ctx_len, config.use_one_minus_w,
      config.use_v2, rope);
}

std::vector<TensorToWrite> RandomTensors(const ModelConfig& config, std::uint64_t seed,
                                         StoredType type) {
  Uniform uniform(seed);
  std::vector<TensorToWrite> tensors;
  for (const ExpectedTensor& expected : ExpectedTensors(config)) {
    TensorToWrite tensor{.name = expected.name, .type = type, .shape = expected.shape};
    const Range range = RangeOf(expected);
    std::vector<float> values(static_cast<std::size_t>(std::accumulate(
        tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>())));
    for (float& value : values) value = range.centre + range.radius * uniform();
    tensor.bytes = EncodeFloats(type, values);
    // As the published checkpoints store them.
    if (tensor.shape.size() == 1 && IsTokenShift(tensor.name)) {
      tensor.shape.insert(tensor.shape.begin(), 2, 1);
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

TensorToWrite& TensorNamed(std::vector<TensorToWrite>& tensors, std::string_view name) {
  for (TensorToWrite& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  GOLDFINCH_CHECK(false);
}

void WriteModel(const std::filesystem::path& dir, const ModelConfig& config,
                const std::vector<TensorToWrite>& tensors) {
  WriteFile(dir / "config.json", ConfigJson(config));
  WriteFile(dir / "model.safetensors", SafetensorsBytes(tensors));
}

}  // namespace goldfinch
