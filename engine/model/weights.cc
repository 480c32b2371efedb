#include "engine/model/weights.h"

#include <string>
#include <utility>

#include "engine/bf16.h"
#include "engine/model/tensor_layout.h"

namespace goldfinch {
namespace {

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, DType type, DType storage, Backend& backend,
         ModelWeights& out)
      : checkpoint_(checkpoint),
        type_(type),
        storage_(storage),
        backend_(backend),
        out_(out) {}

  void Load() {
    const ModelConfig& config = checkpoint_.config();
    out_.embedding = Embedding(checkpoint_.Get("emb.weight"));
    out_.ln0 = Norm("blocks.0.ln0");
    out_.ln_out = Norm("ln_out");
    out_.head = Pack("head.weight");
    if (config.num_gold() > 0) {
      out_.compress = PackAs("w_kv_cache_a.weight", type_);
      const std::int64_t d = config.n_embd;
      out_.decompress_embedding = PackColumns("w_kv_cache_b.weight", 0, d);
      out_.decompress_key =
          PackColumns("w_kv_cache_b.weight", d, config.compressed_dim());
    }
    for (std::int32_t i = 0; i < config.n_layer; ++i) out_.layers.push_back(Layer(i));
  }

 private:
  LayerWeights Layer(std::int32_t index) {
    const std::string block = LayerTensorName(index, "");
    // GOLD layers see the last rows of a prompt only, which are few.
    of_prompts_ = index < checkpoint_.config().num_recurrent();
    LayerWeights layer;
    layer.ln1 = Norm(block + "ln1");
    layer.ln2 = Norm(block + "ln2");
    if (index < checkpoint_.config().num_recurrent())
      layer.finch = Finch(block + "att.");
    else
      layer.gold = Gold(block + "att.");
    layer.ffn.maa_k = Vector(block + "ffn.time_maa_k");
    layer.ffn.maa_r = Vector(block + "ffn.time_maa_r");
    layer.ffn.key = Pack(block + "ffn.key.weight");
    layer.ffn.receptance = Pack(block + "ffn.receptance.weight");
    layer.ffn.value = Pack(block + "ffn.value.weight");
    return layer;
  }

  FinchWeights Finch(const std::string& att) {
    const ModelConfig& config = checkpoint_.config();
    const bool c2 = config.tmix == TimeMix::kFinchC2;
    const bool v2 = c2 && config.use_v2;
    const char* const order[2][5] = {{"w", "k", "v", "r", "g"},
                                     {"r", "k", "v", "w", "v2"}};
    FinchWeights w;
    w.maa_x = Vector(att + "time_maa_x");
    for (int i = 0; i < 5; ++i) {
      if (c2 && i == 4 && !v2) continue;  // nothing reads it
      w.maa[i] = Vector(att + "time_maa_" + order[c2 ? 1 : 0][i]);
      w.mix_up[i] = PackLowRank(att + "time_maa_w2", i);
    }
    w.mix_down = PackLowRank(att + "time_maa_w1");
    w.receptance = Pack(att + "receptance.weight");
    w.key = Pack(att + "key.weight");
    w.value = Pack(att + "value.weight");
    w.output = Pack(att + "output.weight");
    if (!c2) w.gate = Pack(att + "gate.weight");
    w.time_decay = Vector(att + "time_decay");
    w.decay = Pair(att + "time_decay");
    if (v2) w.value2 = Pair(att + "time_value2");
    if (!v2) w.bonus = Vector(att + "time_faaaa");
    w.ln_x = Norm(att + "ln_x");
    if (!c2) {
      const double divisor = config.head_size_divisor;
      w.ln_x.eps = static_cast<float>(1e-5 * divisor * divisor);
    }
    return w;
  }

  GoldWeights Gold(const std::string& att) {
    GoldWeights w;
    w.maa_x = Vector(att + "time_maa_x");
    w.maa_q = Vector(att + "time_maa_q");
    w.mix_q = Pair(att + "time_maa_q");
    w.query = Pack(att + "query.weight");
    w.output = Pack(att + "output.weight");
    w.ln_q = Norm(att + "ln_q");
    w.ln_x = Norm(att + "ln_x");
    w.maa_v_cache = Vector(att + "time_maa_v_cache");
    w.maa_k = Vector(att + "time_maa_k");
    w.maa_v = Vector(att + "time_maa_v");
    w.kv_down = PackLowRank(att + "time_maa_kv_w1");
    for (int i = 0; i < 2; ++i) w.kv_up[i] = PackLowRank(att + "time_maa_kv_w2", i);
    w.key = Pair(att + "time_key");
    w.value = Pair(att + "time_value");
    w.ln_k = Norm(att + "ln_k");
    w.ln_v = Norm(att + "ln_v");
    return w;
  }

  NormWeights Norm(const std::string& name) {
    return {Vector(name + ".weight"), Vector(name + ".bias")};
  }

  const float* Vector(const std::string& name) {
    const StoredTensor& tensor = checkpoint_.Get(name);
    std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
    CopyToF32(tensor, values);
    const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(float));
    void* device = Allocate(bytes);
    backend_.CopyToDevice(device, values.data(), bytes);
    return static_cast<const float*>(device);
  }

  // Rows of the table one by one, so that no second copy of it exists on the way.
  Matrix Embedding(const StoredTensor& tensor) {
    Matrix table{.type = type_,
                 .rows = tensor.shape[0],
                 .cols = tensor.shape[1],
                 .stride = tensor.shape[1]};
    const std::int64_t row_bytes = table.cols * SizeOf(type_);
    table.data = Allocate(table.rows * row_bytes);
    StoredTensor row = tensor;
    row.shape = {table.cols};
    row.size = tensor.size / static_cast<std::size_t>(table.rows);
    std::vector<float> wide(static_cast<std::size_t>(table.cols));
    std::vector<std::uint16_t> narrow(wide.size());
    for (std::int64_t i = 0; i < table.rows; ++i, row.data += row.size) {
      CopyToF32(row, wide);
      for (std::size_t j = 0; j < wide.size(); ++j) narrow[j] = RoundToBf16(wide[j]);
      const void* host = type_ == DType::kF32 ? static_cast<const void*>(wide.data())
                                              : static_cast<const void*>(narrow.data());
      backend_.CopyToDevice(static_cast<char*>(table.data) + i * row_bytes, host,
                            row_bytes);
    }
    return table;
  }

  // Stored [out, in].
  Linear Pack(const std::string& name) { return PackAs(name, storage_); }
  Linear PackAs(const std::string& name, DType storage) {
    return PackColumns(name, 0, checkpoint_.Get(name).shape[1], storage);
  }
  // Inputs [begin, begin + count).
  Linear PackColumns(const std::string& name, std::int64_t begin, std::int64_t count) {
    return PackColumns(name, begin, count, type_);
  }
  Linear PackColumns(const std::string& name, std::int64_t begin, std::int64_t count,
                     DType storage) {
    const StoredTensor& t = checkpoint_.Get(name);
    const auto offset = static_cast<std::size_t>(begin) * StoredTypeBytes(t.type);
    return PackMatrix({.data = t.data + offset,
                       .stored = t.type,
                       .rows = t.shape[0],
                       .cols = count,
                       .row_stride = t.shape[1],
                       .col_stride = 1},
                      storage);
  }

  // One matrix of a low-rank pair, the first or the second: stored [in, out], or
  // [groups, in, out] and then that of a group.
  Linear PackLowRank(const std::string& name, std::int64_t group = 0) {
    const StoredTensor& t = checkpoint_.Get(name);
    const std::int64_t in = t.shape[t.shape.size() - 2], out = t.shape.back();
    const auto offset =
        static_cast<std::size_t>(group * in * out) * StoredTypeBytes(t.type);
    return PackMatrix({.data = t.data + offset,
                       .stored = t.type,
                       .rows = out,
                       .cols = in,
                       .row_stride = 1,
                       .col_stride = out},
                      type_);
  }

  LowRank Pair(const std::string& stem) {
    return {PackLowRank(stem + "_w1"), PackLowRank(stem + "_w2")};
  }

  Linear PackMatrix(HostMatrix matrix, DType storage) {
    matrix.of_prompts = of_prompts_;
    Linear packed = backend_.Pack(matrix, type_, storage);
    out_.bytes += packed->bytes();
    return packed;
  }
  void* Allocate(std::int64_t bytes) {
    out_.memory.push_back(backend_.Allocate(bytes));
    out_.bytes += bytes;
    return out_.memory.back()->data();
  }

  const Checkpoint& checkpoint_;
  const DType type_;
  const DType storage_;
  Backend& backend_;
  ModelWeights& out_;
  bool of_prompts_ = false;
};

}  // namespace

ModelWeights ModelWeights::Load(const Checkpoint& checkpoint, DType type, DType storage,
                                Backend& backend) {
  ModelWeights weights;
  Loader(checkpoint, type, storage, backend, weights).Load();
  return weights;
}

}  // namespace goldfinch
