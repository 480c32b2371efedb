// Per head, S in R^{64 x 64} float32, token by token:
//   y[i] = sum_j r[j] S[j, i]  [+ v[i] sum_j u[j] k[j] r[j]]
//   S[j, i] = w[j] S[j, i] + k[j] v[i]
//   r, k, v, w : [rows, heads, 64]          w is the decay, already in (0, 1)
//   u          : [heads, 64], or none       the bonus of the current token
//   S          : [slots, heads, 64 key j, 64 value i]  from its slot to the next one
// Key-major: y accumulates over keys with the values in vector lanes, so there is no
// sum across lanes, and the order over keys is 0 .. 63 always.
// y may not alias the inputs. Task = span * heads + head; tasks are independent.
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

inline constexpr int kParts = kHeadSize / kLanes;

// The weight of the current token's own value: sum over j of u[j] k[j] r[j].
GOLDFINCH_INLINE float Bonus(const float* u, const float* k, const float* r) {
  F32x16 sum = {};
  for (int part = 0; part < kParts; ++part) {
    const std::int64_t at = part * kLanes;
    sum = MulAdd(Load(u + at) * Load(k + at), Load(r + at), sum);
  }
  return SumLanes(sum);
}

GOLDFINCH_INLINE void Token(const float* r, const float* k, const float* v,
                            const float* w, const float* u, const float* state,
                            float* next, float* out) {
  F32x16 value[kParts], y[kParts];
  const F32x16 own = Splat(u != nullptr ? Bonus(u, k, r) : 0.0f);
  for (int part = 0; part < kParts; ++part) {
    value[part] = Load(v + part * kLanes);
    y[part] = u != nullptr ? own * value[part] : F32x16{};
  }
  for (std::int64_t j = 0; j < kHeadSize; ++j) {
    const float* row = state + j * kHeadSize;
    float* next_row = next + j * kHeadSize;
    const F32x16 rj = Splat(r[j]), kj = Splat(k[j]), wj = Splat(w[j]);
    for (int part = 0; part < kParts; ++part) {
      const F32x16 s = Load(row + part * kLanes);
      y[part] = MulAdd(rj, s, y[part]);
      Store(MulAdd(wj, s, kj * value[part]), next_row + part * kLanes);
    }
  }
  for (int part = 0; part < kParts; ++part) Store(y[part], out + part * kLanes);
}

}  // namespace

void Wkv(const WkvArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t span = task / args.heads, head = task % args.heads;
    const std::int64_t at = head * kHeadSize;
    const std::int64_t own = head * kHeadState;
    const float* state = args.state.f32(args.spans.slot[span]) + own;
    float* const next = args.state.f32(args.spans.next_slot[span]) + own;
    const float* u = args.bonus != nullptr ? args.bonus + at : nullptr;
    for (std::int64_t row = args.spans.begin[span]; row < args.spans.begin[span + 1];
         ++row) {
      Token(args.r.f32(row) + at, args.k.f32(row) + at, args.v.f32(row) + at,
            args.w.f32(row) + at, u, state, next, args.y.f32(row) + at);
      state = next;
    }
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
