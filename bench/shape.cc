#include "bench/shape.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/model/tensor_layout.h"

namespace goldfinch {

absl::StatusOr<ModelConfig> ConfigOfShape(const std::string& shape) {
  int layers = 0, width = 0, end = 0;
  if (std::sscanf(shape.c_str(), "%dx%d%n", &layers, &width, &end) != 2 ||
      static_cast<std::size_t>(end) != shape.size())
    return absl::InvalidArgumentError(
        absl::StrCat("shape is ", shape, "; it must be LAYERSxWIDTH, as in 24x2048"));
  // Through the parser, so that a shape obeys the rules of a real config.json.
  return ParseModelConfig(absl::StrCat(
      R"({"tmix":"x060c2","tmix2":"gold","cmix":"x060","cmix2":"x060","n_layer":)",
      layers, R"(,"n_embd":)", width, R"(,"vocab_size":65536,"dim_att":)", width,
      R"(,"dim_ffn":0,"head_size":)", kHeadSize,
      R"(,"head_size_divisor":8,"inv_other_layer_ratio":3,)",
      R"("kv_cache_compression_ratio":16,"ctx_len":4096,"use_one_minus_w":1,)",
      R"("use_v2":1,"rope":null})"));
}

ShapeCosts CostsOf(const ModelConfig& config, const ElementBytes& element) {
  ShapeCosts costs;
  const auto bytes = static_cast<double>(element.compute);
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    const std::string_view name = tensor.name;
    if (name == "emb.weight" || name.find("time_faaaa") != name.npos) continue;
    double elements = 1;
    for (const std::int64_t extent : tensor.shape)
      elements *= static_cast<double>(extent);
    const bool large = tensor.shape.size() == 2 && name.ends_with(".weight") &&
                       !name.starts_with("w_kv_cache");
    costs.weight_bytes +=
        elements * (large ? static_cast<double>(element.weights) : bytes);
    // Products take two operations a weight; `value` of Finch-C2 is applied twice.
    int layer = -1;
    const bool in_block = std::sscanf(tensor.name.c_str(), "blocks.%d.", &layer) == 1;
    const bool recurrent = in_block && layer < config.num_recurrent();
    // Decompression, and the low-rank pairs of keys and values.
    for (const char* part :
         {"w_kv_cache_b", "att.time_maa_kv_w", "att.time_key_w", "att.time_value_w"})
      if (!recurrent && name.find(part) != name.npos) costs.expand_flops += 2 * elements;
    const bool matrix = tensor.shape.size() >= 2 && tensor.shape[0] > 1;
    if (!matrix || !(recurrent || name.starts_with("w_kv_cache_a"))) continue;
    const bool twice = config.use_v2 && name.ends_with("att.value.weight");
    costs.prompt_flops += 2 * elements * (twice ? 2 : 1);
  }
  const double d = config.n_embd;
  costs.state_bytes =
      4.0 * (config.num_recurrent() * double{1} * config.num_heads() * kHeadState +
             2.0 * config.n_layer * d);
  costs.expanded_bytes = 2 * d * bytes * config.num_gold();
  costs.cache_bytes = static_cast<double>((config.vocab_size <= 65536 ? 2 : 4) +
                                          config.compressed_dim() * element.cache +
                                          (element.cache == 1 ? 2 : 0));
  return costs;
}

}  // namespace goldfinch
