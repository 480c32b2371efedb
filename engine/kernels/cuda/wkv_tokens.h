// The recurrence token by token (wkv.cu) as one warp runs it over eight columns of a
// state. Rows that are no block of a prompt are computed by this and nothing else, so
// they have the same bits in every kernel.
#pragma once

#include "engine/kernels/cuda/device.h"

namespace goldfinch::GOLDFINCH_CUDA {

// A warp has kValues columns of S in registers: lane l has value l % 8 and the sixteen
// keys from 16 (l / 8) on.
class WkvColumns {
 public:
  static constexpr int kValues = 8;                          // of a warp
  static constexpr int kParts = kHeadSize / kValues;         // warps of a head
  static constexpr int kKeys = kHeadSize * kValues / kWarp;  // of a lane

  // Of columns [8 part, 8 part + 8) of a head of a span's state.
  __device__ __forceinline__ WkvColumns(const WkvArgs& args, std::int64_t span,
                                        std::int64_t head, int part)
      : args_(args), lane_(static_cast<int>(threadIdx.x) % kWarp) {
    const int own = part * kValues + lane_ % kValues;
    const int own_key = lane_ / kValues * kKeys;
    value_ = static_cast<int>(head) * kHeadSize + own;
    key_ = static_cast<int>(head) * kHeadSize + own_key;
    const std::int64_t at = (head * kHeadSize + own_key) * kHeadSize + own;
    const float* const state = Row<float>(args.state, args.spans.slot[span]) + at;
    next_ = Row<float>(args.state, args.spans.next_slot[span]) + at;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      s_[j] = state[j * kHeadSize];
      u_[j] = 0.0f;
    }
    if (args.bonus != nullptr) LoadFloats(args.bonus + key_, u_);
  }

  // What a lane takes of a token.
  struct Inputs {
    float r[kKeys], k[kKeys], w[kKeys];
    float v;
  };
  // Where in the head's 64.
  __device__ __forceinline__ int first_key() const { return key_ % kHeadSize; }
  __device__ __forceinline__ int value() const { return value_ % kHeadSize; }

  __device__ __forceinline__ void Run(std::int64_t row, std::int64_t end) {
    Inputs in, next;
    if (row < end) Load(row, in);
    for (; row < end; ++row) {
      if (row + 1 < end) Load(row + 1, next);
      Step(in, row);
      in = next;
    }
  }

  // A span of one token: with nothing after it to load, half as many registers.
  __device__ __forceinline__ void RunOne(std::int64_t row) {
    Inputs in;
    Load(row, in);
    Step(in, row);
  }

  // One token, whose y is row `row`.
  __device__ __forceinline__ void Step(const Inputs& in, std::int64_t row) {
    float y = 0.0f, bonus = 0.0f;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      y = Fma(in.r[j], s_[j], y);
      s_[j] = Fma(in.w[j], s_[j], in.k[j] * in.v);
    }
    if (args_.bonus != nullptr) {
#pragma unroll
      for (int j = 0; j < kKeys; ++j) bonus = Fma(u_[j] * in.k[j], in.r[j], bonus);
      // Before the sum over lanes is taken, a term of each.
      y = Fma(bonus, in.v, y);
    }
    y = SumKeys(y);
    if (lane_ < kValues) Row<float>(args_.y, row)[value_] = y;
  }

  __device__ __forceinline__ void Store() const {
#pragma unroll
    for (int j = 0; j < kKeys; ++j) next_[j * kHeadSize] = s_[j];
  }

 private:
  __device__ __forceinline__ void Load(std::int64_t row, Inputs& in) const {
    LoadFloats(Row<float>(args_.r, row) + key_, in.r);
    LoadFloats(Row<float>(args_.k, row) + key_, in.k);
    LoadFloats(Row<float>(args_.w, row) + key_, in.w);
    in.v = Row<float>(args_.v, row)[value_];
  }
  // Across the four lanes that have one value's keys.
  __device__ __forceinline__ static float SumKeys(float part) {
    part += __shfl_xor_sync(kAllLanes, part, 8);
    part += __shfl_xor_sync(kAllLanes, part, 16);
    return part;
  }

  const WkvArgs& args_;
  const int lane_;
  int value_, key_;
  float* next_;
  float s_[kKeys], u_[kKeys];
};

}  // namespace goldfinch::GOLDFINCH_CUDA
