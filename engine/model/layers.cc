#include "engine/model/layers.h"

namespace goldfinch {
namespace {

constexpr Matrix kNone = {};

// Inputs of the products of a time mix, in the order of their weights.
enum C2Input { kC2R, kC2K, kC2V, kC2W, kC2V2 };
enum FinchInput { kFinchW, kFinchK, kFinchV, kFinchR, kFinchG };

// z = tanh(lerp(x, p, maa_x) maa_w1);  x_i = lerp(x, p, maa_i + z_i maa_w2[i]), left in
// work.mixed[i] for the first `count` inputs.
void MixInputs(LayerContext& context, const FinchWeights& w, std::int64_t rows,
               std::size_t count) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const Matrix cur = work.cur.Rows(rows), prev = work.prev.Rows(rows);
  const Matrix mixed = work.mixed[0].Rows(rows);
  const Matrix z = work.low.Rows(rows).Cols(0, w.mix_down->out());
  const Matrix z_in = work.mix_in.Rows(rows).Cols(0, w.mix_down->out());
  b.Lerp(cur, prev, w.maa_x, kNone, mixed);
  b.Gemm(mixed, *w.mix_down, z);
  b.Activate(Activation::kTanh, z, z_in);
  Backend::Product up[5];
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t width = w.mix_up[i]->in();
    up[i] = {z_in.Cols(static_cast<std::int64_t>(i) * width, width), w.mix_up[i].get(),
             work.delta[i].Rows(rows)};
  }
  b.GemmBatch(std::span(up, count));
  for (std::size_t i = 0; i < count; ++i)
    b.Lerp(cur, prev, w.maa[i], work.delta[i].Rows(rows), work.mixed[i].Rows(rows));
}

// y from r, k, v and w, all in the workspace.
void RunWkv(LayerContext& context, const FinchWeights& w, float* wkv, std::int64_t rows) {
  const Workspace& work = context.work;
  context.backend.Wkv({.r = work.r.Rows(rows),
                       .k = work.k.Rows(rows),
                       .v = work.v.Rows(rows),
                       .w = work.w.Rows(rows),
                       .bonus = w.bonus,
                       .state = wkv,
                       .spans = context.spans,
                       .heads = context.config.num_heads(),
                       .y = work.y.Rows(rows)});
}

void FinchC2(LayerContext& context, const FinchWeights& w, float* wkv, const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const Matrix r = work.r.Rows(x.rows), k = work.k.Rows(x.rows);
  const Matrix v = work.v.Rows(x.rows), decay = work.w.Rows(x.rows);
  const Matrix v2 = work.v2.Rows(x.rows), y = work.y.Rows(x.rows);
  const bool use_v2 = context.config.use_v2;
  const auto mixed = [&](C2Input i) { return work.mixed[i].Rows(x.rows); };
  const Matrix d = work.low.Rows(x.rows).Cols(0, w.decay.down->out());
  const Matrix d_in = work.low_in.Rows(x.rows).Cols(0, w.decay.down->out());

  MixInputs(context, w, x.rows, use_v2 ? 5 : 4);
  const std::size_t products = use_v2 ? 6 : 4;
  const Matrix e = use_v2 ? work.low2.Rows(x.rows).Cols(0, w.value2.down->out()) : kNone;
  const Matrix e_in =
      use_v2 ? work.low2_in.Rows(x.rows).Cols(0, w.value2.down->out()) : kNone;
  const Backend::Product in[] = {
      {mixed(kC2R), w.receptance.get(), r}, {mixed(kC2K), w.key.get(), k},
      {mixed(kC2V), w.value.get(), v},      {mixed(kC2W), w.decay.down.get(), d},
      {mixed(kC2V2), w.value.get(), v2},    {mixed(kC2V2), w.value2.down.get(), e}};
  b.GemmBatch(std::span(in).first(products));
  // d = time_decay + tanh(x_w decay_w1) decay_w2;  w = exp(-exp(d));
  // v2 = x_v2 value^T + tanh(x_v2 value2_w1) value2_w2.
  b.Activate(Activation::kTanh, d, d_in);
  if (use_v2) b.Activate(Activation::kTanh, e, e_in);
  const Backend::Product up[] = {{d_in, w.decay.up.get(), decay},
                                 {e_in, w.value2.up.get(), y}};
  b.GemmBatch(std::span(up).first(use_v2 ? 2 : 1));
  b.Decay(decay, w.time_decay, context.config.use_one_minus_w ? k : kNone);
  if (use_v2) b.Add(v2, y);
  RunWkv(context, w, wkv, x.rows);
  b.AddNorm({.a = y,
             .b = use_v2 ? v2 : kNone,
             .norm = w.ln_x,
             .out = work.normed.Rows(x.rows)});
}

void Finch(LayerContext& context, const FinchWeights& w, float* wkv, const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const Matrix r = work.r.Rows(x.rows), k = work.k.Rows(x.rows);
  const Matrix v = work.v.Rows(x.rows), decay = work.w.Rows(x.rows);
  const Matrix gate = work.v2.Rows(x.rows), y = work.y.Rows(x.rows);
  const auto mixed = [&](FinchInput i) { return work.mixed[i].Rows(x.rows); };
  const Matrix d = work.low.Rows(x.rows).Cols(0, w.decay.down->out());
  const Matrix d_in = work.low_in.Rows(x.rows).Cols(0, w.decay.down->out());

  MixInputs(context, w, x.rows, 5);
  const Backend::Product in[] = {{mixed(kFinchW), w.decay.down.get(), d},
                                 {mixed(kFinchK), w.key.get(), k},
                                 {mixed(kFinchV), w.value.get(), v},
                                 {mixed(kFinchR), w.receptance.get(), r},
                                 {mixed(kFinchG), w.gate.get(), gate}};
  b.GemmBatch(in);
  b.Activate(Activation::kTanh, d, d_in);
  b.Gemm(d_in, *w.decay.up, decay);
  b.Decay(decay, w.time_decay, kNone);
  RunWkv(context, w, wkv, x.rows);
  b.AddNorm({.a = y,
             .norm = w.ln_x,
             .groups = context.config.num_heads(),
             .gate = gate,
             .out = work.normed.Rows(x.rows)});
}

}  // namespace

Workspace::Workspace(DeviceArena& arena, const ModelConfig& config, DType type,
                     std::int64_t rows, std::int64_t width) {
  const std::int64_t d = config.n_embd, a = config.dim_att, f = config.dim_ffn;
  cur = arena.Take(rows, d, DType::kF32);
  prev = arena.Take(rows, d, DType::kF32);
  for (Matrix& m : mixed) m = arena.Take(rows, d, type);
  for (Matrix& m : delta) m = arena.Take(rows, d, DType::kF32);
  low = arena.Take(rows, width, DType::kF32);
  low2 = arena.Take(rows, width, DType::kF32);
  for (Matrix* m : {&low_in, &low2_in}) *m = arena.Take(rows, width, type);
  mix_in = arena.Take(rows, width, type);
  for (Matrix* m : {&r, &k, &v, &w, &v2, &y}) *m = arena.Take(rows, a, DType::kF32);
  normed = arena.Take(rows, a, type);
  out = arena.Take(rows, d, DType::kF32);
  ffn = arena.Take(rows, f, DType::kF32);
  ffn_in = arena.Take(rows, f, type);
}

void ApplyLowRank(LayerContext& context, const LowRank& pair, const Matrix& x,
                  const Matrix& out) {
  const Matrix low = context.work.low.Rows(x.rows).Cols(0, pair.down->out());
  const Matrix in = context.work.low_in.Rows(x.rows).Cols(0, pair.down->out());
  context.backend.Gemm(x, *pair.down, low);
  context.backend.Activate(Activation::kTanh, low, in);
  context.backend.Gemm(in, *pair.up, out);
}

void FinchTimeMix(LayerContext& context, const LayerWeights& layer,
                  const LayerState& state, const Matrix& x) {
  Workspace& work = context.work;
  const FinchWeights& w = *layer.finch;
  context.backend.NormShift(x, layer.ln1, state.att_shift, context.spans,
                            work.cur.Rows(x.rows), work.prev.Rows(x.rows));
  if (context.config.tmix == TimeMix::kFinchC2)
    FinchC2(context, w, state.wkv, x);
  else
    Finch(context, w, state.wkv, x);
  const Matrix out = work.out.Rows(x.rows);
  context.backend.Gemm(work.normed.Rows(x.rows), *w.output, out);
  context.backend.Add(x, out);
}

void ChannelMix(LayerContext& context, const LayerWeights& layer, const LayerState& state,
                const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const ChannelMixWeights& w = layer.ffn;
  const Matrix cur = work.cur.Rows(x.rows), prev = work.prev.Rows(x.rows);
  const Matrix x_k = work.mixed[0].Rows(x.rows), x_r = work.mixed[1].Rows(x.rows);
  const Matrix r = work.delta[0].Rows(x.rows), out = work.out.Rows(x.rows);
  const Matrix k = work.ffn.Rows(x.rows), k_in = work.ffn_in.Rows(x.rows);

  b.NormShift(x, layer.ln2, state.ffn_shift, context.spans, cur, prev);
  b.Lerp(cur, prev, w.maa_k, kNone, x_k);
  b.Lerp(cur, prev, w.maa_r, kNone, x_r);
  const Backend::Product in[] = {{x_k, w.key.get(), k}, {x_r, w.receptance.get(), r}};
  b.GemmBatch(in);
  b.Activate(Activation::kReluSquared, k, k_in);
  b.Gemm(k_in, *w.value, out);
  b.GatedAdd(x, r, out);
}

}  // namespace goldfinch
