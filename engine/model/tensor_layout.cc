#include "engine/model/tensor_layout.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

// Inner widths of the published checkpoints.
constexpr std::int64_t kMixWidth = 32;
constexpr std::int64_t kDecayWidth = 64;
constexpr std::int64_t kMinGoldWidth = 64;

enum class Need { kRequired, kUnused };

class Layout {
 public:
  explicit Layout(const ModelConfig& config)
      : config_(config),
        d_(config.n_embd),
        a_(config.dim_att),
        f_(config.dim_ffn),
        gold_width_(std::max(d_ / 16, kMinGoldWidth)) {}

  std::vector<ExpectedTensor> All() && {
    Add("emb.weight", {config_.vocab_size, d_});
    for (std::int32_t layer = 0; layer < config_.n_layer; ++layer) Block(layer);
    prefix_.clear();
    Norm("ln_out", d_);
    Add("head.weight", {config_.vocab_size, d_});
    if (config_.gold) {
      Add("w_kv_cache_a.weight", {config_.compressed_dim(), d_});
      Add("w_kv_cache_b.weight", {d_, d_ + config_.compressed_dim()});
    }
    return std::move(tensors_);
  }

 private:
  void Block(std::int32_t layer) {
    prefix_ = LayerTensorName(layer, "");
    if (layer == 0) Norm("ln0", d_);
    Norm("ln1", d_);
    Norm("ln2", d_);
    if (layer >= config_.num_recurrent()) {
      GoldTimeMix();
    } else {
      RecurrentTimeMix();
    }
    Add("ffn.time_maa_k", {d_});
    Add("ffn.time_maa_r", {d_});
    Add("ffn.key.weight", {f_, d_});
    Add("ffn.receptance.weight", {d_, d_});
    Add("ffn.value.weight", {d_, f_});
  }

  void RecurrentTimeMix() {
    const bool c2 = config_.tmix == TimeMix::kFinchC2;
    const Need bonus = c2 && config_.use_v2 ? Need::kUnused : Need::kRequired;
    const Need second_value = config_.use_v2 ? Need::kRequired : Need::kUnused;
    for (const char* mix : {"x", "r", "k", "v", "w"}) {
      Add(absl::StrCat("att.time_maa_", mix), {d_});
    }
    if (c2) {
      Add("att.time_maa_v2", {d_}, second_value);
    } else {
      Add("att.time_maa_g", {d_});
    }
    // Five mixes in both kinds, and still five when v2 is not used.
    LowRank("att.time_maa", kMixWidth, d_, d_, 5);
    Add("att.time_decay", {a_});
    LowRank("att.time_decay", kDecayWidth, d_, a_);
    if (c2) LowRank("att.time_value2", kDecayWidth, d_, a_, 1, second_value);
    Add("att.time_faaaa", {config_.num_heads(), config_.head_size}, bonus);
    Add("att.receptance.weight", {a_, d_});
    Add("att.key.weight", {a_, d_});
    Add("att.value.weight", {a_, d_});
    if (!c2) Add("att.gate.weight", {a_, d_});
    Add("att.output.weight", {d_, a_});
    Norm("att.ln_x", a_);
  }

  void GoldTimeMix() {
    for (const char* mix : {"x", "q", "v_cache", "k", "v"}) {
      Add(absl::StrCat("att.time_maa_", mix), {d_});
    }
    LowRank("att.time_maa_q", kMixWidth, d_, d_);
    LowRank("att.time_maa_kv", kMixWidth, d_, d_, 2);
    LowRank("att.time_key", gold_width_, d_, a_);
    LowRank("att.time_value", gold_width_, d_, a_);
    Add("att.query.weight", {a_, d_});
    Add("att.output.weight", {d_, a_});
    for (const char* norm : {"q", "k", "v", "x"}) Norm(absl::StrCat("att.ln_", norm), a_);
  }

  ExpectedTensor& Add(const std::string& name, std::vector<std::int64_t> shape,
                      Need need = Need::kRequired) {
    return tensors_.emplace_back(ExpectedTensor{.name = prefix_ + name,
                                                .shape = std::move(shape),
                                                .required = need == Need::kRequired});
  }

  void Norm(const std::string& name, std::int64_t n) {
    Add(name + ".weight", {n});
    Add(name + ".bias", {n});
  }

  // <name>_w1 [in, groups * width] and <name>_w2 [groups, width, out], the latter
  // without its first dimension when there is one group.
  void LowRank(const std::string& name, std::int64_t width, std::int64_t in,
               std::int64_t out, std::int64_t groups = 1, Need need = Need::kRequired) {
    ExpectedTensor& w1 = Add(name + "_w1", {in, groups * width}, need);
    w1.width_axis = 1;
    w1.width_factor = groups;
    if (groups == 1) {
      Add(name + "_w2", {width, out}, need).width_axis = 0;
    } else {
      Add(name + "_w2", {groups, width, out}, need).width_axis = 1;
    }
  }

  const ModelConfig& config_;
  const std::int64_t d_;
  const std::int64_t a_;
  const std::int64_t f_;
  const std::int64_t gold_width_;
  std::string prefix_;
  std::vector<ExpectedTensor> tensors_;
};

}  // namespace

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  return Layout(config).All();
}

std::string LayerTensorName(std::int32_t layer, const std::string& suffix) {
  return absl::StrCat("blocks.", layer, ".", suffix);
}

bool ShapeMatches(const ExpectedTensor& expected, std::span<const std::int64_t> stored,
                  std::int64_t* width) {
  const std::vector<std::int64_t>& shape = expected.shape;
  if (shape.size() == 1 && stored.size() == 3 && stored[0] == 1 && stored[1] == 1) {
    stored = stored.subspan(2);
  }
  if (stored.size() != shape.size()) return false;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (static_cast<std::int32_t>(axis) != expected.width_axis) {
      if (stored[axis] != shape[axis]) return false;
    } else {
      if (stored[axis] <= 0 || stored[axis] % expected.width_factor != 0) return false;
      *width = stored[axis] / expected.width_factor;
    }
  }
  return true;
}

}  // namespace goldfinch
