// Per head, S in R^{64 x 64} float32, token by token:
//   y = r S [+ v (u . k . r)],   S[j, i] = w[j] S[j, i] + k[j] v[i]
//   r, k, v, w : [rows, heads, 64]          w is the decay, already in (0, 1)
//   u          : [heads, 64], or none       the bonus of the current token
//   S          : [slots, heads, 64 key j, 64 value i]  from its slot to the next one
// y may not alias the inputs.
//
// Columns of S need nothing from each other. A warp has eight of them (values) in
// registers, from the first token of a span to its last: lane l has value l % 8 and the
// sixteen keys from 16 (l / 8) on. So S is read once and written once however long the
// span is, tokens follow each other within a warp without a barrier, and the sum over
// keys is sixteen terms in order, then across four lanes. The next token's inputs are
// loaded while this one is computed.
//
// Bits do not depend on the cut of a sequence into spans, nor on what else runs. With
// one token a span it is the reading and writing of S that takes the time, with many it
// is the chain from token to token; one order serves both. Where prompts have blocks
// (RowSpans::lead), wkv_blocks.cu takes over, with this order for all other rows.
#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/wkv_blocks.h"
#include "engine/kernels/cuda/wkv_tokens.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kParts = WkvColumns::kParts;

// Of a step that decodes, with one token a span, it is the bytes on their way that count:
// 2 KB a warp, of 20 warps on a multiprocessor.
constexpr int kWarpsOfOne = kParts / 2, kBlocksOfOne = 5;

// A warp for each (span, head, eight values); blocks are of any number of warps up to
// kParts, or kWarpsOfOne.
template <bool kOne>
__global__ void __launch_bounds__(kOne ? kWarpsOfOne* kWarp : kParts* kWarp,
                                  kOne ? kBlocksOfOne : 1) WkvKernel(WkvArgs args) {
  // Of so many warps, in 32 bits: a division of 64 takes a hundred instructions.
  const auto heads = static_cast<unsigned>(args.heads);
  const unsigned task = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const unsigned of_span = task / kParts, span = of_span / heads;
  AwaitLaunch();
  if (span >= static_cast<unsigned>(args.spans.count)) return;
  WkvColumns columns(args, span, of_span % heads, static_cast<int>(task % kParts));
  if constexpr (kOne)
    columns.RunOne(span);  // of the row that is its number
  else
    columns.Run(args.spans.begin[span], args.spans.begin[span + 1]);
  columns.Store();
}

}  // namespace

void PrepareWkv(Stream& stream) {
  LoadKernels(stream, WkvKernel<true>, WkvKernel<false>);
  PrepareWkvBlocks(stream);
}

void Wkv(Stream& stream, const WkvArgs& args) {
  if (args.spans.lead != nullptr) {
    WkvBlocks(stream, args);
    return;
  }
  const std::int64_t warps = args.spans.count * args.heads * kParts;
  // Every span has a token, and none has two.
  const bool one = args.r.rows == args.spans.count;
  // A head a block where there are enough of them, or half of one, so that its rows of S
  // are asked for together; else two warps a block, to spread them over the processors.
  const bool many = args.spans.count * args.heads >= 2 * stream.multiprocessors;
  const int warps_of_block = !many ? 2 : one ? kWarpsOfOne : kParts;
  Launch(stream, "wkv", one ? WkvKernel<true> : WkvKernel<false>,
         dim3(BlocksFor(warps, warps_of_block)), warps_of_block * kWarp, 0, args);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
