#include "engine/model/layers.h"

namespace goldfinch {
namespace {

constexpr Matrix kNone = {};

// Inputs of the five products of a time mix, in the order of their weights.
enum C2Input { kC2R, kC2K, kC2V, kC2W, kC2V2 };
enum FinchInput { kFinchW, kFinchK, kFinchV, kFinchR, kFinchG };

// Views of the workspace at the batch's number of rows.
class TimeMixRun {
 public:
  TimeMixRun(LayerContext& context, const FinchWeights& weights, std::int64_t rows)
      : context_(context),
        b_(context.backend),
        w_(weights),
        work_(context.work),
        rows_(rows),
        cur_(work_.cur.Rows(rows)),
        prev_(work_.prev.Rows(rows)) {}

  // z = tanh(lerp(x, p, maa_x) maa_w1), kept for Mixed().
  void ComputeMix() {
    const Matrix mixed = work_.mixed.Rows(rows_);
    b_.Lerp(cur_, prev_, w_.maa_x, kNone, mixed);
    const Matrix z = work_.low.Rows(rows_).Cols(0, w_.mix_down->out());
    z_ = work_.mix_in.Rows(rows_).Cols(0, w_.mix_down->out());
    b_.Gemm(mixed, *w_.mix_down, z);
    b_.Activate(Activation::kTanh, z, z_);
  }

  // x_i = lerp(x, p, maa_i + z_i maa_w2[i]), until the next call.
  Matrix Mixed(int i) {
    const std::int64_t width = w_.mix_up[i]->in();
    const Matrix delta = work_.delta.Rows(rows_);
    const Matrix mixed = work_.mixed.Rows(rows_);
    b_.Gemm(z_.Cols(i * width, width), *w_.mix_up[i], delta);
    b_.Lerp(cur_, prev_, w_.maa[i], delta, mixed);
    return mixed;
  }

  // d = time_decay + tanh(x_w decay_w1) decay_w2;  w = exp(-exp(d)).
  void Decay(const Matrix& x_w, const Matrix& w, const Matrix& scaled_key) {
    ApplyLowRank(context_, w_.decay, x_w, w);
    b_.Decay(w, w_.time_decay, scaled_key);
  }

 private:
  LayerContext& context_;
  Backend& b_;
  const FinchWeights& w_;
  Workspace& work_;
  const std::int64_t rows_;
  const Matrix cur_, prev_;
  Matrix z_;
};

void FinchC2(LayerContext& context, const FinchWeights& w, float* wkv, const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const Matrix r = work.r.Rows(x.rows), k = work.k.Rows(x.rows);
  const Matrix v = work.v.Rows(x.rows), decay = work.w.Rows(x.rows);
  const Matrix v2 = work.v2.Rows(x.rows), y = work.y.Rows(x.rows);
  const bool use_v2 = context.config.use_v2;

  TimeMixRun run(context, w, x.rows);
  run.ComputeMix();
  b.Gemm(run.Mixed(kC2R), *w.receptance, r);
  b.Gemm(run.Mixed(kC2K), *w.key, k);
  b.Gemm(run.Mixed(kC2V), *w.value, v);
  run.Decay(run.Mixed(kC2W), decay, context.config.use_one_minus_w ? k : kNone);
  if (use_v2) {
    const Matrix x_v2 = run.Mixed(kC2V2);
    b.Gemm(x_v2, *w.value, v2);
    ApplyLowRank(context, w.value2, x_v2, y);
    b.Add(v2, y);
  }
  b.Wkv({.r = r,
         .k = k,
         .v = v,
         .w = decay,
         .bonus = w.bonus,
         .state = wkv,
         .spans = context.spans,
         .heads = context.config.num_heads(),
         .y = y});
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

  TimeMixRun run(context, w, x.rows);
  run.ComputeMix();
  run.Decay(run.Mixed(kFinchW), decay, kNone);
  b.Gemm(run.Mixed(kFinchK), *w.key, k);
  b.Gemm(run.Mixed(kFinchV), *w.value, v);
  b.Gemm(run.Mixed(kFinchR), *w.receptance, r);
  b.Gemm(run.Mixed(kFinchG), *w.gate, gate);
  b.Wkv({.r = r,
         .k = k,
         .v = v,
         .w = decay,
         .bonus = w.bonus,
         .state = wkv,
         .spans = context.spans,
         .heads = context.config.num_heads(),
         .y = y});
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
  mixed = arena.Take(rows, d, type);
  delta = arena.Take(rows, d, DType::kF32);
  low = arena.Take(rows, width, DType::kF32);
  low_in = arena.Take(rows, width, type);
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
  const Matrix mixed = work.mixed.Rows(x.rows), r = work.delta.Rows(x.rows);
  const Matrix k = work.ffn.Rows(x.rows), k_in = work.ffn_in.Rows(x.rows);
  const Matrix out = work.out.Rows(x.rows);

  b.NormShift(x, layer.ln2, state.ffn_shift, context.spans, cur, prev);
  b.Lerp(cur, prev, w.maa_k, kNone, mixed);
  b.Gemm(mixed, *w.key, k);
  b.Activate(Activation::kReluSquared, k, k_in);
  b.Gemm(k_in, *w.value, out);
  b.Lerp(cur, prev, w.maa_r, kNone, mixed);
  b.Gemm(mixed, *w.receptance, r);
  b.GatedAdd(x, r, out);
}

}  // namespace goldfinch
