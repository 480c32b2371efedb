#include "engine/model/layers.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace goldfinch {
namespace {

constexpr Matrix kNone = {};

// Inputs of the products of a time mix, in the order of their weights.
enum C2Input { kC2R, kC2K, kC2V, kC2W, kC2V2 };
enum FinchInput { kFinchW, kFinchK, kFinchV, kFinchR, kFinchG };

// Products of a batch's rows.
void Gemm(LayerContext& context, std::span<Backend::Product> products) {
  for (Backend::Product& product : products) product.prompt_rows = context.prompt_rows;
  context.backend.Gemm(products);
}
void Gemm(LayerContext& context, Backend::Product product) {
  Gemm(context, std::span(&product, 1));
}

// cur, diff and x_i = lerp(x, p, maa_i + z_i maa_w2[i]) for the first `count` inputs,
// with z = tanh(lerp(x, p, maa_x) maa_w1). out[i] may be wherever there is room.
void MixInputs(LayerContext& context, const LayerWeights& layer, const LayerState& state,
               const Matrix& x, std::span<const Matrix> out) {
  Workspace& work = context.work;
  const FinchWeights& w = *layer.finch;
  const Matrix cur = work.cur.Rows(x.rows), diff = work.diff.Rows(x.rows);
  const Matrix mixed = work.mixed[0].Rows(x.rows);
  const Matrix z = work.mix_in.Rows(x.rows).Cols(0, w.mix_down->out());
  StartTimeMix(context, layer, state, w.maa_x, x);
  Gemm(
      context,
      {.x = mixed, .w = w.mix_down.get(), .y = z, .epilogue = {.finish = Finish::kTanh}});
  Backend::Product up[5];
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::int64_t width = w.mix_up[i]->in();
    up[i] = {
        .x = z.Cols(static_cast<std::int64_t>(i) * width, width),
        .w = w.mix_up[i].get(),
        .y = out[i],
        .epilogue = {.finish = Finish::kLerp, .bias = w.maa[i], .a = cur, .b = diff}};
  }
  Gemm(context, std::span(up).first(out.size()));
}

// y from r, k, v and w, all in the workspace.
void RunWkv(LayerContext& context, const FinchWeights& w, const Matrix& wkv,
            std::int64_t rows) {
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

void FinchC2(LayerContext& context, const LayerWeights& layer, const LayerState& state,
             const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const FinchWeights& w = *layer.finch;
  const std::int64_t rows = x.rows;
  const bool use_v2 = context.config.use_v2;
  const Matrix r = work.r.Rows(rows), k = work.k.Rows(rows), y = work.y.Rows(rows);
  const Matrix decay = work.w.Rows(rows);
  // v and v2 share the matrix `value`, so they are rows of one product, unless these are
  // of two classes.
  const bool two_classes = context.prompt_rows > 0 && context.prompt_rows < rows;
  const std::int64_t values_of_a_row = use_v2 && !two_classes ? 2 : 1;
  const std::int64_t value_rows = values_of_a_row * rows;
  const Matrix values = work.v.Rows(use_v2 ? 2 * rows : rows);
  const Matrix v2 = use_v2 ? values.RowsFrom(rows, rows) : kNone;
  const Matrix mixed[] = {work.mixed[0].Rows(rows), work.mixed[1].Rows(rows),
                          work.mixed[2].Rows(rows), work.mixed[3].Rows(rows),
                          work.mixed[2].RowsFrom(rows, rows)};
  const Matrix d = work.low[0].Rows(rows).Cols(0, w.decay.down->out());
  MixInputs(context, layer, state, x, std::span(mixed).first(use_v2 ? 5 : 4));
  const Matrix e = use_v2 ? work.low[1].Rows(rows).Cols(0, w.value2.down->out()) : kNone;
  const Epilogue tanh = {.finish = Finish::kTanh};
  Backend::Product in[6] = {
      {.x = mixed[kC2R],
       .w = w.receptance.get(),
       .y = r,
       .prompt_rows = context.prompt_rows},
      {.x = mixed[kC2K], .w = w.key.get(), .y = k, .prompt_rows = context.prompt_rows},
      {.x = work.mixed[2].Rows(value_rows),
       .w = w.value.get(),
       .y = values.Rows(value_rows),
       .prompt_rows = values_of_a_row * context.prompt_rows},
      {.x = mixed[kC2W],
       .w = w.decay.down.get(),
       .y = d,
       .epilogue = tanh,
       .prompt_rows = context.prompt_rows}};
  std::size_t count = 4;
  if (use_v2)
    in[count++] = {.x = mixed[kC2V2],
                   .w = w.value2.down.get(),
                   .y = e,
                   .epilogue = tanh,
                   .prompt_rows = context.prompt_rows};
  if (use_v2 && two_classes)
    in[count++] = {.x = mixed[kC2V2],
                   .w = w.value.get(),
                   .y = v2,
                   .prompt_rows = context.prompt_rows};
  b.Gemm(std::span(in).first(count));
  // w = exp(-exp(time_decay + tanh(x_w decay_w1) decay_w2)), k scaled by 1 - w;
  // v2 = x_v2 value^T + tanh(x_v2 value2_w1) value2_w2.
  Backend::Product up[] = {
      {.x = d,
       .w = w.decay.up.get(),
       .y = decay,
       .epilogue = {.finish = Finish::kDecay,
                    .bias = w.time_decay,
                    .a = context.config.use_one_minus_w ? k : kNone}},
      {.x = e, .w = w.value2.up.get(), .y = v2, .epilogue = {.finish = Finish::kAdd}}};
  Gemm(context, std::span(up).first(use_v2 ? 2 : 1));
  RunWkv(context, w, state.wkv, rows);
  b.AddNorm({.a = y, .b = v2, .norm = w.ln_x, .out = work.normed.Rows(rows)});
}

void Finch(LayerContext& context, const LayerWeights& layer, const LayerState& state,
           const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const FinchWeights& w = *layer.finch;
  const std::int64_t rows = x.rows;
  const Matrix gate = work.gate.Rows(rows), y = work.y.Rows(rows);
  Matrix mixed[5];
  for (std::size_t i = 0; i < 5; ++i) mixed[i] = work.mixed[i].Rows(rows);
  const Matrix d = work.low[0].Rows(rows).Cols(0, w.decay.down->out());
  MixInputs(context, layer, state, x, mixed);
  Backend::Product in[] = {
      {.x = mixed[kFinchW],
       .w = w.decay.down.get(),
       .y = d,
       .epilogue = {.finish = Finish::kTanh}},
      {.x = mixed[kFinchK], .w = w.key.get(), .y = work.k.Rows(rows)},
      {.x = mixed[kFinchV], .w = w.value.get(), .y = work.v.Rows(rows)},
      {.x = mixed[kFinchR], .w = w.receptance.get(), .y = work.r.Rows(rows)},
      {.x = mixed[kFinchG], .w = w.gate.get(), .y = gate}};
  Gemm(context, in);
  Gemm(context, {.x = d,
                 .w = w.decay.up.get(),
                 .y = work.w.Rows(rows),
                 .epilogue = {.finish = Finish::kDecay, .bias = w.time_decay}});
  RunWkv(context, w, state.wkv, rows);
  b.AddNorm({.a = y,
             .norm = w.ln_x,
             .groups = context.config.num_heads(),
             .gate = gate,
             .out = work.normed.Rows(rows)});
}

}  // namespace

Workspace::Workspace(DeviceArena& arena, const ModelConfig& config, DType type,
                     std::int64_t rows, std::int64_t width) {
  const std::int64_t d = config.n_embd, a = config.dim_att, f = config.dim_ffn;
  // Room for v2's rows behind v's.
  const std::int64_t value_rows = config.use_v2 ? 2 * rows : rows;
  cur = arena.Take(rows, d, DType::kF32);
  diff = arena.Take(rows, d, DType::kF32);
  for (std::size_t i = 0; i < 5; ++i)
    mixed[i] = arena.TakeInput(i == 2 ? value_rows : rows, d, type);
  for (Matrix& m : low) m = arena.TakeInput(rows, width, type);
  mix_in = arena.TakeInput(rows, width, type);
  for (Matrix* m : {&r, &k, &w, &y, &gate}) *m = arena.Take(rows, a, DType::kF32);
  v = arena.Take(value_rows, a, DType::kF32);
  normed = arena.TakeInput(rows, a, type);
  ffn = arena.TakeInput(rows, f, type);
}

void StartTimeMix(LayerContext& context, const LayerWeights& layer,
                  const LayerState& state, const float* maa_x, const Matrix& x) {
  const Workspace& work = context.work;
  context.backend.NormShift({.x = x,
                             .norm = layer.ln1,
                             .state = state.att_shift,
                             .spans = context.spans,
                             .cur = work.cur.Rows(x.rows),
                             .diff = work.diff.Rows(x.rows),
                             .num_mixes = 1,
                             .mix = {maa_x},
                             .mixed = {work.mixed[0].Rows(x.rows)}});
}

void FinchTimeMix(LayerContext& context, const LayerWeights& layer,
                  const LayerState& state, const Matrix& x) {
  if (context.config.tmix == TimeMix::kFinchC2)
    FinchC2(context, layer, state, x);
  else
    Finch(context, layer, state, x);
  Gemm(context, {.x = context.work.normed.Rows(x.rows),
                 .w = layer.finch->output.get(),
                 .y = x,
                 .epilogue = {.finish = Finish::kAdd}});
}

void ChannelMix(LayerContext& context, const LayerWeights& layer, const LayerState& state,
                const Matrix& x) {
  Backend& b = context.backend;
  Workspace& work = context.work;
  const ChannelMixWeights& w = layer.ffn;
  const Matrix x_k = work.mixed[0].Rows(x.rows), x_r = work.mixed[1].Rows(x.rows);
  // Nothing else wants `cur` here, and `gate` may be narrower.
  const Matrix k = work.ffn.Rows(x.rows), r = work.cur.Rows(x.rows);
  b.NormShift({.x = x,
               .norm = layer.ln2,
               .state = state.ffn_shift,
               .spans = context.spans,
               .num_mixes = 2,
               .mix = {w.maa_k, w.maa_r},
               .mixed = {x_k, x_r}});
  Backend::Product in[] = {
      {.x = x_k, .w = w.key.get(), .y = k, .epilogue = {.finish = Finish::kReluSquared}},
      {.x = x_r, .w = w.receptance.get(), .y = r}};
  Gemm(context, in);
  Gemm(context, {.x = k,
                 .w = w.value.get(),
                 .y = x,
                 .epilogue = {.finish = Finish::kGatedAdd, .a = r}});
}

}  // namespace goldfinch
