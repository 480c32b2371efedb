// Normalisations, a row at a time, statistics in two passes over the row in float32:
//   LN(x)   = (x - mean) / sqrt(var + eps) * weight + bias
//   rms(x)  = x / (|x| / sqrt(cols) + 1e-8)
//   AddNorm = LN(a + b) over each of `groups` parts of the row [* silu(gate)]
//   AttendFinish = [LN](sums / weights), a head's sums and their weight from its carry
// cols is a multiple of 16, and of 16 * groups. Inputs float32 (an embedding table may
// be bf16); outputs float32, or, of AddNorm, AttendFinish and EmbedNorm's copy, rounded
// to bf16. AddNorm's out may alias its input.
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

struct Moments {
  float mean;
  float inverse_deviation;
};

template <typename Read>
GOLDFINCH_INLINE Moments MomentsOf(const Read& read, std::int64_t cols, float eps) {
  F32x16 sum = {};
  for (std::int64_t i = 0; i < cols; i += kLanes) sum += read(i);
  const float mean = SumLanes(sum) / static_cast<float>(cols);
  F32x16 square = {};
  for (std::int64_t i = 0; i < cols; i += kLanes) {
    const F32x16 d = read(i) - mean;
    square = MulAdd(d, d, square);
  }
  const float var = SumLanes(square) / static_cast<float>(cols);
  return {mean, 1.0f / __builtin_sqrtf(var + eps)};
}

GOLDFINCH_INLINE F32x16 Normalised(F32x16 x, const Moments& m, const NormWeights& norm,
                                   std::int64_t i) {
  return MulAdd((x - m.mean) * m.inverse_deviation, Load(norm.weight + i),
                Load(norm.bias + i));
}

template <typename Read, typename Write>
GOLDFINCH_INLINE void Normalise(const Read& read, const NormWeights& norm,
                                std::int64_t first, std::int64_t cols,
                                const Write& write) {
  const Moments m = MomentsOf(read, cols, norm.eps);
  for (std::int64_t i = 0; i < cols; i += kLanes)
    write(i, Normalised(read(i), m, norm, first + i));
}

GOLDFINCH_INLINE void NormRow(const float* x, const NormWeights& norm, std::int64_t cols,
                              float* out) {
  Normalise([x](std::int64_t i) { return Load(x + i); }, norm, 0, cols,
            [out](std::int64_t i, F32x16 v) { Store(v, out + i); });
}

GOLDFINCH_INLINE float RootMeanSquare(const float* x, std::int64_t cols) {
  F32x16 square = {};
  for (std::int64_t i = 0; i < cols; i += kLanes) {
    const F32x16 v = Load(x + i);
    square = MulAdd(v, v, square);
  }
  return __builtin_sqrtf(SumLanes(square)) / __builtin_sqrtf(static_cast<float>(cols)) +
         1e-8f;
}

template <typename T>
GOLDFINCH_INLINE void AddNormGroup(const AddNormArgs& args, std::int64_t row,
                                   std::int64_t first, std::int64_t cols, T* out) {
  const float* a = args.a.f32(row) + first;
  const float* b = args.b.data != nullptr ? args.b.f32(row) + first : nullptr;
  const float* gate = args.gate.data != nullptr ? args.gate.f32(row) + first : nullptr;
  const auto read = [a, b](std::int64_t i) {
    return b != nullptr ? Load(a + i) + Load(b + i) : Load(a + i);
  };
  const auto write = [gate, out](std::int64_t i, F32x16 v) {
    if (gate != nullptr) {
      const F32x16 g = Load(gate + i);
      v *= g * Sigmoid(g);
    }
    Store(v, out + i);
  };
  Normalise(read, args.norm, first, cols, write);
}

}  // namespace

void EmbedNorm(const std::int32_t* tokens, const Matrix& table, const NormWeights& norm,
               const Matrix& out, const Matrix& copy, std::int64_t begin,
               std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    float* to = out.f32(row);
    const auto write = [to, &copy, row](std::int64_t i, F32x16 v) {
      Store(v, to + i);
      if (copy.data != nullptr) Write(v, copy, row, i);
    };
    if (table.type == DType::kF32) {
      const float* e = table.f32(tokens[row]);
      Normalise([e](std::int64_t i) { return Load(e + i); }, norm, 0, out.cols, write);
    } else {
      const std::uint16_t* e = table.bf16(tokens[row]);
      Normalise([e](std::int64_t i) { return Load(e + i); }, norm, 0, out.cols, write);
    }
  }
}

// The predecessor of a row is normalised anew instead of being kept: its moments are at
// hand, and rows then need nothing from each other.
void NormShift(const NormShiftArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t cols = args.x.cols;
  const RowSpans& spans = args.spans;
  std::int32_t span = 0;
  Moments before = {};
  for (std::int64_t row = begin; row < end; ++row) {
    while (row >= spans.begin[span + 1]) ++span;
    const bool first = row == spans.begin[span];
    const bool alone = first && row + 1 == spans.begin[span + 1];
    const float* state = args.state.f32(spans.slot[span]);
    float* next = args.state.f32(spans.next_slot[span]);
    const auto read = [&](std::int64_t r) {
      return [x = args.x.f32(r)](std::int64_t i) { return Load(x + i); };
    };
    const Moments m = MomentsOf(read(row), cols, args.norm.eps);
    if (!first && row == begin) before = MomentsOf(read(row - 1), cols, args.norm.eps);
    for (std::int64_t i = 0; i < cols; i += kLanes) {
      const F32x16 cur = Normalised(read(row)(i), m, args.norm, i);
      const F32x16 prev =
          first ? Load(state + i) : Normalised(read(row - 1)(i), before, args.norm, i);
      const F32x16 diff = prev - cur;
      if (args.cur.data != nullptr) {
        Store(cur, args.cur.f32(row) + i);
        Store(diff, args.diff.f32(row) + i);
      }
      for (int j = 0; j < args.num_mixes; ++j)
        Write(MulAdd(diff, Load(args.mix[j] + i), cur), args.mixed[j], row, i);
      if (alone) Store(cur, next + i);
    }
    before = m;
  }
}

void NormToState(const Matrix& x, const NormWeights& norm, const std::int32_t* rows,
                 const std::int32_t* slots, const Matrix& state, std::int64_t begin,
                 std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i)
    NormRow(x.f32(rows[i]), norm, x.cols, state.f32(slots[i]));
}

void AddNorm(const AddNormArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t cols = args.a.cols / args.groups;
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t first = 0; first < args.a.cols; first += cols) {
      if (args.out.type == DType::kF32)
        AddNormGroup(args, row, first, cols, args.out.f32(row) + first);
      else
        AddNormGroup(args, row, first, cols, args.out.bf16(row) + first);
    }
  }
}

void RmsShift(const RmsShiftArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t rows = args.cur[0].rows;
  // The predecessor is mostly the row before, whose norm is at hand.
  const float* last = nullptr;
  float last_norm = 0.0f;
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t input = task / rows, row = task % rows;
    const Matrix& in = args.in[input];
    const float* x = in.f32(args.index[row]);
    const float norm = RootMeanSquare(x, in.cols);
    const float* before = nullptr;
    float before_norm = last_norm;
    if (args.previous[row] >= 0) {
      before = in.f32(args.previous[row]);
      if (before != last) before_norm = RootMeanSquare(before, in.cols);
    }
    float* cur = args.cur[input].f32(row);
    float* diff = args.diff[input].f32(row);
    for (std::int64_t i = 0; i < in.cols; i += kLanes) {
      const F32x16 v = Load(x + i) / norm;
      const F32x16 p = before != nullptr ? Load(before + i) / before_norm : F32x16{};
      Store(v, cur + i);
      Store(p - v, diff + i);
    }
    last = x;
    last_norm = norm;
  }
}

void AttendFinish(const Matrix& carry, const NormWeights& norm, const Matrix& out,
                  std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* all = carry.f32(row);
    const auto read = [all](std::int64_t i) {
      const float* head = all + i / kHeadSize * kCarrySize;
      return Load(head + i % kHeadSize) / head[kHeadSize + 1];
    };
    const auto write = [&out, row](std::int64_t i, F32x16 v) { Write(v, out, row, i); };
    if (norm.weight != nullptr) {
      Normalise(read, norm, 0, out.cols, write);
      continue;
    }
    for (std::int64_t i = 0; i < out.cols; i += kLanes) write(i, read(i));
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
