// The layers of docs/model.md over a batch of rows: time mix of Finch and Finch-C2, and
// the channel mix that every layer has.
//
// Each reads and updates the residual stream x [rows, D] in place and carries the shift
// states of its sequences. Nothing here looks at an element or knows a device.
#pragma once

#include "engine/backend/backend.h"
#include "engine/model/config.h"
#include "engine/model/weights.h"
#include "engine/model/workspace.h"

namespace goldfinch {

// What a layer needs besides weights and x.
struct LayerContext {
  Backend& backend;
  const ModelConfig& config;
  Workspace& work;
  RowSpans spans;
  std::int64_t prompt_rows = 0;  // the last ones of x, see Backend::Product
};

// State of one layer for all slots, in device memory.
struct LayerState {
  Matrix att_shift = {};  // [slots, D]: LN1 of the last token
  Matrix ffn_shift = {};  // [slots, D]: LN2 of the last token
  Matrix wkv = {};        // [slots, heads * kHeadState]; recurrent layers only
};

// What every time mix starts from, left in the workspace: cur = LN1(x), diff, and
// lerp(x, p, maa_x) in mixed[0].
void StartTimeMix(LayerContext& context, const LayerWeights& layer,
                  const LayerState& state, const float* maa_x, const Matrix& x);

// x += TimeMix(LN1(x)) of a recurrent layer.
void FinchTimeMix(LayerContext& context, const LayerWeights& layer,
                  const LayerState& state, const Matrix& x);

// x += ChannelMix(LN2(x)).
void ChannelMix(LayerContext& context, const LayerWeights& layer, const LayerState& state,
                const Matrix& x);

}  // namespace goldfinch
