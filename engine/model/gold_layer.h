// The time mix of a GOLD layer: queries from the residual stream, keys and values from
// the cache.
#pragma once

#include <cstdint>

#include "engine/model/gold_attention.h"
#include "engine/model/layers.h"

namespace goldfinch {

// x += TimeMix(LN1(x)) of GOLD layer `gold_layer`, counted from the first. The rows of x
// are those `attention` was begun with.
void GoldTimeMix(LayerContext& context, const LayerWeights& layer,
                 const LayerState& state, GoldAttention& attention,
                 const double* rope_frequency, std::int64_t gold_layer, const Matrix& x);

}  // namespace goldfinch
