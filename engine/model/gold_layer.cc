#include "engine/model/gold_layer.h"

namespace goldfinch {

void GoldTimeMix(LayerContext& context, const LayerWeights& layer,
                 const LayerState& state, GoldAttention& attention,
                 const double* rope_frequency, std::int64_t gold_layer, const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const GoldWeights& w = *layer.gold;
  const Matrix cur = work.cur.Rows(x.rows), diff = work.diff.Rows(x.rows);
  const Matrix mixed = work.mixed[0].Rows(x.rows);
  const Matrix low = work.low[0].Rows(x.rows).Cols(0, w.mix_q.down->out());
  const Matrix q = work.r.Rows(x.rows), normed = work.normed.Rows(x.rows);

  StartTimeMix(context, layer, state, w.maa_x, x);
  b.Gemm({.x = mixed,
          .w = w.mix_q.down.get(),
          .y = low,
          .epilogue = {.finish = Finish::kTanh}});
  b.Gemm({.x = low,
          .w = w.mix_q.up.get(),
          .y = mixed,
          .epilogue = {.finish = Finish::kLerp, .bias = w.maa_q, .a = cur, .b = diff}});
  b.Gemm({.x = mixed, .w = w.query.get(), .y = q});
  b.AddNorm({.a = q, .norm = w.ln_q, .out = q});
  if (rope_frequency != nullptr) b.Rope(q, attention.positions(), rope_frequency);
  attention.Attend(gold_layer, q, w.ln_x, normed);
  b.Gemm(
      {.x = normed, .w = w.output.get(), .y = x, .epilogue = {.finish = Finish::kAdd}});
}

}  // namespace goldfinch
