// Wkv where spans have blocks (RowSpans::lead); called by PrepareWkv and Wkv alone.
#pragma once

#include "engine/backend/op_args.h"
#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

void PrepareWkvBlocks(Stream& stream);
void WkvBlocks(Stream& stream, const WkvArgs& args);

}  // namespace goldfinch::GOLDFINCH_CUDA
