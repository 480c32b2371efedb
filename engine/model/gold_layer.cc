#include "engine/model/gold_layer.h"

namespace goldfinch {

void GoldTimeMix(LayerContext& context, const LayerWeights& layer,
                 const LayerState& state, GoldAttention& attention,
                 const double* rope_frequency, std::int64_t gold_layer, const Matrix& x) {
  constexpr Matrix kNone = {};
  Backend& b = context.backend;
  Workspace& work = context.work;
  const GoldWeights& w = *layer.gold;
  const Matrix cur = work.cur.Rows(x.rows), prev = work.prev.Rows(x.rows);
  const Matrix mixed = work.mixed[0].Rows(x.rows), delta = work.delta[0].Rows(x.rows);
  const Matrix q = work.r.Rows(x.rows), attended = work.y.Rows(x.rows);
  const Matrix normed = work.normed.Rows(x.rows), out = work.out.Rows(x.rows);

  b.NormShift(x, layer.ln1, state.att_shift, context.spans, cur, prev);
  b.Lerp(cur, prev, w.maa_x, kNone, mixed);
  ApplyLowRank(context, w.mix_q, mixed, delta);
  b.Lerp(cur, prev, w.maa_q, delta, mixed);
  b.Gemm(mixed, *w.query, q);
  b.AddNorm({.a = q, .norm = w.ln_q, .out = q});
  if (rope_frequency != nullptr) b.Rope(q, attention.positions(), rope_frequency);
  attention.Attend(gold_layer, q, attended);
  b.AddNorm({.a = attended, .norm = w.ln_x, .out = normed});
  b.Gemm(normed, *w.output, out);
  b.Add(x, out);
}

}  // namespace goldfinch
