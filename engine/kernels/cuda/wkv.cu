// Per head, S in R^{64 x 64} float32, token by token:
//   y = r S [+ v (u . k . r)],   S[j, i] = w[j] S[j, i] + k[j] v[i]
//   r, k, v, w : [rows, heads, 64]          w is the decay, already in (0, 1)
//   u          : [heads, 64], or none       the bonus of the current token
//   S          : [slots, heads, 64 key j, 64 value i]  updated in place
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
// is the chain from token to token; one order serves both.
#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/kernels.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kHead = 64;
constexpr int kValues = 8;                   // of a warp
constexpr int kKeys = kHead * kValues / 32;  // of a lane
constexpr int kParts = kHead / kValues;      // warps of a head

struct Inputs {
  float r[kKeys], k[kKeys], w[kKeys];
  float v;
};

__device__ __forceinline__ void LoadInputs(const WkvArgs& args, std::int64_t row, int key,
                                           int value, Inputs& in) {
  const float* const r = Row<float>(args.r, row) + key;
  const float* const k = Row<float>(args.k, row) + key;
  const float* const w = Row<float>(args.w, row) + key;
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
    in.r[j] = r[j];
    in.k[j] = k[j];
    in.w[j] = w[j];
  }
  in.v = Row<float>(args.v, row)[value];
}

// Across the four lanes that have one value's keys.
__device__ __forceinline__ float SumKeys(float part) {
  part += __shfl_xor_sync(kAllLanes, part, 8);
  part += __shfl_xor_sync(kAllLanes, part, 16);
  return part;
}

// A warp for each (span, head, eight values); blocks are of any number of warps.
__global__ void __launch_bounds__(kParts* kWarp) WkvKernel(WkvArgs args) {
  AwaitLaunch();
  const std::int64_t task =
      (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
  const std::int64_t span = task / (args.heads * kParts);
  if (span >= args.spans.count) return;
  const std::int64_t head = task / kParts % args.heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int own = static_cast<int>(task % kParts) * kValues + lane % kValues;
  const int own_key = lane / kValues * kKeys;
  const int value = static_cast<int>(head) * kHead + own;
  const int key = static_cast<int>(head) * kHead + own_key;
  float* const state =
      args.state +
      ((args.spans.slot[span] * args.heads + head) * kHead + own_key) * kHead + own;
  float s[kKeys], u[kKeys];
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
    s[j] = state[j * kHead];
    u[j] = args.bonus != nullptr ? args.bonus[key + j] : 0.0f;
  }
  const std::int64_t end = args.spans.begin[span + 1];
  std::int64_t row = args.spans.begin[span];
  Inputs in, next;
  if (row < end) LoadInputs(args, row, key, value, in);
  for (; row < end; ++row) {
    if (row + 1 < end) LoadInputs(args, row + 1, key, value, next);
    float y = 0.0f, bonus = 0.0f;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      y = Fma(in.r[j], s[j], y);
      s[j] = Fma(in.w[j], s[j], in.k[j] * in.v);
    }
    if (args.bonus != nullptr) {
#pragma unroll
      for (int j = 0; j < kKeys; ++j) bonus = Fma(u[j] * in.k[j], in.r[j], bonus);
      // Before the sum over lanes is taken, a term of each.
      y = Fma(bonus, in.v, y);
    }
    y = SumKeys(y);
    if (lane < kValues) Row<float>(args.y, row)[value] = y;
    in = next;
  }
  AllowLaunch();
#pragma unroll
  for (int j = 0; j < kKeys; ++j) state[j * kHead] = s[j];
}

}  // namespace

void Wkv(Stream& stream, const WkvArgs& args) {
  const std::int64_t warps = args.spans.count * args.heads * kParts;
  // A head a block where there are enough of them, so that its rows of S are asked for
  // together; else two warps a block, to spread them over the processors.
  const bool many = args.spans.count * args.heads >= 2 * stream.multiprocessors;
  const int warps_of_block = many ? kParts : 2;
  Launch(stream, "wkv", WkvKernel, dim3(BlocksFor(warps, warps_of_block)),
         warps_of_block * kWarp, 0, args);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
