// Wkv where spans have blocks (RowSpans::lead); called by Wkv and by nobody else.
#pragma once

#include "engine/backend/op_args.h"
#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

void WkvBlocks(Stream& stream, const WkvArgs& args);

}  // namespace goldfinch::GOLDFINCH_CUDA
