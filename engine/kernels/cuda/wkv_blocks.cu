// The recurrence of wkv.cu where prompts have blocks of 64 tokens, per head:
//   y = r S [+ v (u . k . r)],   S[j, i] = w[j] S[j, i] + k[j] v[i]
//   r, k, v, w : [rows, heads, 64]          w is the decay, in [0, 1]
//   u          : [heads, 64], or none       the bonus of the current token
//   S          : [slots, heads, 64 key j, 64 value i]  updated in place
// y may not alias the inputs.
//
// Rows before a span's first block and behind its last one go token by token, as in
// wkv.cu and with the same bits. A block is four tiles of 16 tokens, one after another:
//   y_t = (r_t . w_0 .. w_(t-1)) S + sum over s < t of A[t, s] v_s + A[t, t] v_t
//   S   = (w_0 .. w_15) . S + sum over s of (k_s . w_(s+1) .. w_15) v_s
//   A[t, s] = sum over keys of r_t k_s w_(s+1) .. w_(t-1),   A[t, t] = u . k_t . r_t
// which is three products of matrices and A. Tiles of 16 make the fewest operations: of
// longer ones A grows, of shorter ones S is read more often.
//
// Decays of several tokens are products of the decays themselves, within a tile and
// towards later tokens only. Nothing is divided by one and no logarithm is taken, so a
// decay of 0 or 1 is exact and a product that underflows is a term that had vanished.
//
// Products are 3xTF32: both operands are sums of two tf32 numbers, and the product of the
// two small ones is left out; that and what is cut off of them is at most 2^-20 of a
// term. The tensor cores cut off what they cannot hold of a sum. So they never add to S:
// its growth in a tile starts from zero and is added in float32, and a state does not
// lean towards zero the longer a prompt is.
//
// A block of threads has a head of a span. Four of its warps have S in registers, 16
// values and all keys each, as the accumulators of S^T; taken for the left operand they
// are S^T with the keys of each eight in another order. Beside them, four warps prepare
// the tile that comes next (A, and r and k with their decays, already split) and copies
// of the two tiles behind it are under way.
//
// A NaN spoils its sequence as elsewhere, and besides the earlier rows of its tile: A is
// 0 there, and 0 times NaN is none.
//
// 94 KiB of shared memory and 128 registers: two blocks of threads on a multiprocessor of
// sm_90. By count it is shared memory that takes the time, 80 cycles a token and head.
#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/wkv_blocks.h"
#include "engine/kernels/cuda/wkv_tokens.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kTile = 16;                     // tokens
constexpr int kTiles = kPromptBlock / kTile;  // of a block
constexpr int kThreads = WkvColumns::kParts * kWarp;
constexpr int kPreparing = kThreads / 2;  // threads, the last ones
constexpr int kStages = 4;
static_assert(kPromptBlock % kTile == 0 && kPreparing == 2 * kHeadSize);

// A tile as it was copied. Here and below, rows are as long as it takes for the lanes
// that read together to read from different banks.
struct Raw {
  float rwk[3 * kTile][kHeadSize];  // all of r, then all of w, then all of k
};
struct Values {
  float v[kTile][kHeadSize + 4];
};
constexpr int kR = 0, kW = kTile, kK = 2 * kTile;  // first rows in it

// Two neighbours along the sum of a product, as a lane of its right operand takes them.
struct alignas(16) Pair {
  float big[2], small[2];
};
// A tile as it is multiplied.
struct Prepared {
  // r with the decays of the tokens before, pairs of keys.
  Pair r[kTile][kHeadSize / 2 + 4];
  // k with the decays of the tokens behind, pairs of tokens.
  Pair k[kTile / 2][kHeadSize + 2];
  Pair a[kTile][kTile / 2 + 4];  // pairs of s; zero where s > t
  float decay[kHeadSize];        // of the whole tile
};
struct Shared {
  Raw raw[kStages - 1];  // done with when it is prepared
  Values values[kStages];
  Prepared prepared[2];
};
static_assert(sizeof(Raw) % 16 == 0 && sizeof(Values) % 16 == 0);
static_assert(sizeof(Shared) <= (99 << 10), "as much as every device has");

struct alignas(8) Floats {
  float first, second;
};

// Starts the copies of a thread's part of a tile: four columns of a row of each. Of rows
// there are `rows`. kAligned: they start at multiples of 16 bytes.
template <bool kAligned>
__device__ __forceinline__ void CopyTile(const WkvArgs& args, std::int64_t first,
                                         std::int64_t column, int rows, Raw& raw,
                                         Values& values) {
  constexpr int kColumns = 4, kChunks = kHeadSize / kColumns;
  static_assert(kThreads == kTile * kChunks);
  const int token = static_cast<int>(threadIdx.x) / kChunks;
  const int own = static_cast<int>(threadIdx.x) % kChunks * kColumns;
  if (token >= rows) return;
  const auto copy = [&](float* to, const Matrix& matrix) {
    const float* const from = Row<float>(matrix, first + token) + column + own;
    if constexpr (kAligned) {
      AsyncCopy16(to + own, from, 0);
    } else {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) AsyncCopy4(to + own + i, from + i);
    }
  };
  copy(raw.rwk[kR + token], args.r);
  copy(raw.rwk[kK + token], args.k);
  copy(raw.rwk[kW + token], args.w);
  copy(values.v[token], args.v);
}

// Rows [row, end) token by token, through shared memory: for the next token's inputs
// there are no registers beside the tiles'.
template <bool kAligned>
__device__ __forceinline__ void RunTokens(const WkvArgs& args, std::int64_t span,
                                          std::int64_t head, std::int64_t row,
                                          std::int64_t end) {
  auto& shared = *static_cast<Shared*>(DynamicShared());
  WkvColumns columns(args, span, head, static_cast<int>(threadIdx.x) / kWarp);
  const auto rows_from = [end](std::int64_t first) {
    return static_cast<int>(end - first < kTile ? end - first : kTile);
  };
  const auto copy = [&](std::int64_t first, int stage) {
    if (first < end)
      CopyTile<kAligned>(args, first, head * kHeadSize, rows_from(first),
                         shared.raw[stage], shared.values[stage]);
    AsyncCommit();
  };
  copy(row, 0);
  for (int stage = 0; row < end; row += kTile, stage ^= 1) {
    copy(row + kTile, stage ^ 1);
    AsyncWait<1>();
    __syncthreads();
    const Raw& raw = shared.raw[stage];
    for (int t = 0; t < rows_from(row); ++t) {
      WkvColumns::Inputs in;
      const auto load = [&](int first, float(&values)[WkvColumns::kKeys]) {
#pragma unroll
        for (int j = 0; j < WkvColumns::kKeys; j += 4) {
          const auto four =
              LoadVector<float4>(&raw.rwk[first + t][columns.first_key() + j]);
          values[j] = four.x;
          values[j + 1] = four.y;
          values[j + 2] = four.z;
          values[j + 3] = four.w;
        }
      };
      load(kR, in.r);
      load(kK, in.k);
      load(kW, in.w);
      in.v = shared.values[stage].v[t][columns.value()];
      columns.Step(in, row + t);
    }
    __syncthreads();  // the room is taken next
  }
  AsyncWait<0>();
  columns.Store();
}

__device__ __forceinline__ Pair PairOf(const Split& first, const Split& second) {
  return {{first.big, second.big}, {first.small, second.small}};
}
__device__ __forceinline__ Pair PairOf(const Floats& values) {
  return PairOf(SplitOf(values.first), SplitOf(values.second));
}
__device__ __forceinline__ Floats operator*(const Floats& a, const Floats& b) {
  return {a.first * b.first, a.second * b.second};
}

// A quarter of the work on a tile, for one warp whose lanes have two keys each: four rows
// of r and four columns of A, the last of which are as much shorter as the first are
// longer. What a column has become at the last row is k with its decays.
template <int kQuarter>
class Preparing {
 public:
  // `bonus` is the head's, or null.
  __device__ __forceinline__ static void Run(const Raw& raw, const float* bonus,
                                             Prepared& to) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, key = 2 * lane;
    const auto load = [&](int row) { return LoadVector<Floats>(&raw.rwk[row][key]); };
    Floats decay = {1.0f, 1.0f}, k[4];
    float sums[kWarp] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      k[i] = load(kK + Column(i));
      if (bonus == nullptr) continue;
      const auto r = load(kR + Column(i));
      const float now = WarpSum(
          Fma(bonus[key + 1] * k[i].second, r.second, bonus[key] * k[i].first * r.first));
      if (lane == 0) Put(now, Column(i), Column(i), to);
    }
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      const bool in_columns = t > Column(0), own_row = t / 4 == kQuarter;
      Floats r = {};
      if (in_columns || own_row) r = load(kR + t);
      if (own_row) StoreVector(PairOf(r * decay), &to.r[t][lane]);
      const auto w = load(kW + t);
      if (t / 4 <= kQuarter) decay = decay * w;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (t <= Column(i)) continue;
        sums[Slot(i, t)] = Fma(r.second, k[i].second, r.first * k[i].first);
        k[i] = k[i] * w;
      }
    }
    if (kQuarter == 3) StoreVector(decay, &to.decay[key]);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      Pair* const pairs = &to.k[Column(i) / 2][key];
      StoreVector(PairOf(SplitOf(k[i].first), SplitOf(k[i + 1].first)), pairs);
      StoreVector(PairOf(SplitOf(k[i].second), SplitOf(k[i + 1].second)), pairs + 1);
    }
    FoldLanes<kWarp / 2>(lane, sums);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane - Slot(i, 0);
      if (row > Column(i) && row < kTile) Put(sums[0], row, Column(i), to);
    }
  }

  // A where Run never writes, and on the diagonal where there is no bonus.
  __device__ __forceinline__ static void Clear(int thread, Prepared& to) {
    static_assert(kPreparing == kTile * kTile / 2);
    StoreVector(Pair{}, &to.a[thread / (kTile / 2)][thread % (kTile / 2)]);
  }

 private:
  static_assert(kPreparing == 4 * kWarp && kHeadSize == 2 * kWarp && kTile == 16);

  // Two pairs of neighbours.
  __device__ __forceinline__ static constexpr int Column(int i) {
    return i < 2 ? 2 * kQuarter + i : kTile - 4 - 2 * kQuarter + i;
  }
  // Number of the sum in row t > Column(i); there are 30, column by column.
  __device__ __forceinline__ static constexpr int Slot(int i, int t) {
    const int before = i == 0   ? 0
                       : i == 1 ? kTile - 1 - 2 * kQuarter
                       : i == 2 ? 2 * kTile - 3 - 4 * kQuarter
                                : 2 * kTile - 2 - 2 * kQuarter;
    return before + t - Column(i) - 1;
  }
  // Sums of all lanes, of which lane i gets number i: at each level it passes on one half
  // of those it has and adds to the other.
  template <int kHalf>
  __device__ __forceinline__ static void FoldLanes(int lane, float (&sums)[kWarp]) {
    const bool upper = (lane & kHalf) != 0;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float keep = upper ? sums[i + kHalf] : sums[i];
      const float pass = upper ? sums[i] : sums[i + kHalf];
      sums[i] = keep + __shfl_xor_sync(kAllLanes, pass, kHalf);
    }
    if constexpr (kHalf > 1) FoldLanes<kHalf / 2>(lane, sums);
  }
  __device__ __forceinline__ static void Put(float value, int row, int column,
                                             Prepared& to) {
    const Split split = SplitOf(value);
    Pair& pair = to.a[row][column / 2];
    pair.big[column % 2] = split.big;
    pair.small[column % 2] = split.small;
  }
};

// A left operand: sixteen values, a pair of neighbours along the sum for each lane.
struct Left {
  float big[4], small[4];
};
__device__ __forceinline__ Left LeftOf(float a0, float a1, float a2, float a3) {
  const Split s[4] = {SplitOf(a0), SplitOf(a1), SplitOf(a2), SplitOf(a3)};
  return {{s[0].big, s[1].big, s[2].big, s[3].big},
          {s[0].small, s[1].small, s[2].small, s[3].small}};
}
__device__ __forceinline__ void MultiplyBig(float (&d)[4], const Left& a, const Pair& b) {
  MmaTf32(d, a.big, b.big[0], b.big[1]);
}
__device__ __forceinline__ void MultiplySmall(float (&d)[4], const Left& a,
                                              const Pair& b) {
  MmaTf32(d, a.small, b.big[0], b.big[1]);
  MmaTf32(d, a.big, b.small[0], b.small[1]);
}

// Sixteen values of a state in a warp's registers. With g = lane / 4 and q = lane % 4,
// s[n][c] is value g + c / 2 * 8 of them and key 8 n + 2 q + c % 2.
class StateTile {
 public:
  static constexpr int kValues = 16;

  // `value` is the first of them.
  __device__ __forceinline__ explicit StateTile(int value)
      : g_(static_cast<int>(threadIdx.x) % kWarp / 4),
        q_(static_cast<int>(threadIdx.x) % 4),
        value_(value + g_) {}

  // From and to the state of a head.
  __device__ __forceinline__ void Load(const float* state) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) s_[n][c] = state[Place(n, c)];
  }

  __device__ __forceinline__ void Store(float* state) const {
#pragma unroll
    for (int n = 0; n < kGroups; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) state[Place(n, c)] = s_[n][c];
  }

  // `row` is the tile's first, `column` the head's first.
  __device__ __forceinline__ void Run(const Values& values, const Prepared& tile,
                                      const Matrix& y, std::int64_t row,
                                      std::int64_t column) {
    // V^T, eight tokens each.
    Left v[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* const from = &values.v[8 * h + 2 * q_][value_];
      const float* const next = &values.v[8 * h + 2 * q_ + 1][value_];
      v[h] = LeftOf(from[0], from[8], next[0], next[8]);
    }
    Output(tile, v, y, row, column);
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const auto k0 = LoadVector<Pair>(&tile.k[q_][8 * n + g_]);
      const auto k1 = LoadVector<Pair>(&tile.k[4 + q_][8 * n + g_]);
      // From the smallest terms to the largest.
      float growth[4] = {};
      MultiplySmall(growth, v[0], k0);
      MultiplySmall(growth, v[1], k1);
      MultiplyBig(growth, v[0], k0);
      MultiplyBig(growth, v[1], k1);
      const auto decay = LoadVector<Floats>(&tile.decay[8 * n + 2 * q_]);
#pragma unroll
      for (int c = 0; c < 4; ++c)
        s_[n][c] = Fma(c % 2 == 0 ? decay.first : decay.second, s_[n][c], growth[c]);
    }
  }

 private:
  static constexpr int kGroups = kHeadSize / 8;  // of eight keys

  __device__ __forceinline__ int Place(int n, int c) const {
    return (8 * n + 2 * q_ + c % 2) * kHeadSize + value_ + c / 2 * 8;
  }

  // y^T of the tile, eight tokens each.
  __device__ __forceinline__ void Output(const Prepared& tile, const Left (&v)[2],
                                         const Matrix& y, std::int64_t row,
                                         std::int64_t column) const {
    float big[2][4] = {}, small[2][4] = {};
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const Left s = LeftOf(s_[n][0], s_[n][2], s_[n][1], s_[n][3]);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const auto r = LoadVector<Pair>(&tile.r[8 * m + g_][4 * n + q_]);
        MultiplySmall(small[m], s, r);
        MultiplyBig(big[m], s, r);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h <= m; ++h) {  // later tokens are not seen
        const auto a = LoadVector<Pair>(&tile.a[8 * m + g_][4 * h + q_]);
        MultiplySmall(small[m], v[h], a);
        MultiplyBig(big[m], v[h], a);
      }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        Row<float>(y, row + 8 * m + 2 * q_ + c % 2)[column + value_ + c / 2 * 8] =
            big[m][c] + small[m][c];
  }

  const int g_, q_, value_;
  float s_[kGroups][4];
};
static_assert(StateTile::kValues * (kThreads - kPreparing) / kWarp == kHeadSize);

// All tiles of a span, in turns: while tile i is multiplied, i + 1 is prepared and those
// up to i + 3 are on their way. `state` is the head's, `first` the first row, `column`
// the head's first.
template <bool kAligned>
__device__ __forceinline__ void RunTiles(const WkvArgs& args, float* state,
                                         std::int64_t first, std::int64_t column,
                                         int tiles) {
  auto& shared = *static_cast<Shared*>(DynamicShared());
  const auto copy = [&](int i) {
    if (i < tiles)
      CopyTile<kAligned>(args, first + std::int64_t{i} * kTile, column, kTile,
                         shared.raw[i % (kStages - 1)], shared.values[i % kStages]);
    AsyncCommit();
  };
  // Of a warp that multiplies, and of a thread that prepares.
  const bool multiplies = threadIdx.x < kThreads - kPreparing;
  const int thread = static_cast<int>(threadIdx.x) % kPreparing;
  StateTile own(thread / kWarp * StateTile::kValues);
  const float* const bonus = args.bonus != nullptr ? args.bonus + column : nullptr;

  for (int i = 0; i < kStages - 1; ++i) copy(i);
  if (multiplies) {
    own.Load(state);
  } else {
    Preparing<0>::Clear(thread, shared.prepared[0]);
    Preparing<0>::Clear(thread, shared.prepared[1]);
  }
  for (int i = -1; i < tiles; ++i) {
    AsyncWait<kStages - 3>();
    // Everybody sees tile i prepared and tile i + 1 copied, and is done with what was
    // multiplied last, whose room both are taken for next.
    __syncthreads();
    if (i >= 0) copy(i + kStages - 1);
    if (multiplies) {
      if (i >= 0)
        own.Run(shared.values[i % kStages], shared.prepared[i % 2], args.y,
                first + std::int64_t{i} * kTile, column);
    } else if (i + 1 < tiles) {
      const Raw& raw = shared.raw[(i + 1) % (kStages - 1)];
      Prepared& prepared = shared.prepared[(i + 1) % 2];
      switch (thread / kWarp) {
        case 0:
          Preparing<0>::Run(raw, bonus, prepared);
          break;
        case 1:
          Preparing<1>::Run(raw, bonus, prepared);
          break;
        case 2:
          Preparing<2>::Run(raw, bonus, prepared);
          break;
        default:
          Preparing<3>::Run(raw, bonus, prepared);
      }
    }
  }
  AsyncWait<0>();
  if (multiplies) own.Store(state);
}

// A block of threads for each (span, head).
template <bool kAligned>
__global__ void __launch_bounds__(kThreads, 2) WkvBlocksKernel(WkvArgs args) {
  AwaitLaunch();
  // The last spans first: among decoded rows, prompts come last and take longest.
  const std::int64_t span = args.spans.count - 1 - blockIdx.x / args.heads;
  const std::int64_t head = blockIdx.x % args.heads, slot = args.spans.slot[span];
  const std::int64_t begin = args.spans.begin[span], end = args.spans.begin[span + 1];
  const std::int64_t lead = args.spans.lead[span];
  const std::int64_t blocks =
      end - begin > lead ? (end - begin - lead) / kPromptBlock : 0;
  // Without a block there is one run of tokens, not two.
  const std::int64_t first = blocks > 0 ? begin + lead : end;
  const std::int64_t last = first + blocks * kPromptBlock;
  std::int64_t from = begin, to = first;
  for (int phase = 0; phase < 2; ++phase) {
    if (from < to) RunTokens<kAligned>(args, span, head, from, to);
    if (phase == 1 || blocks == 0) break;
    // The state goes into other threads' hands, and back.
    __syncthreads();
    RunTiles<kAligned>(args, Row<float>(args.state, slot) + head * kHeadState, first,
                       head * kHeadSize, static_cast<int>(blocks) * kTiles);
    __syncthreads();
    from = last;
    to = end;
  }
}

// Rows start at multiples of 16 bytes.
bool IsAligned(const Matrix& m) {
  return reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0 && m.stride % 4 == 0;
}

}  // namespace

// Shared memory beyond 48 KiB must be asked for.
void PrepareWkvBlocks(Stream& stream) {
  LoadKernels(stream, WkvBlocksKernel<true>, WkvBlocksKernel<false>);
  for (const auto kernel : {WkvBlocksKernel<true>, WkvBlocksKernel<false>})
    stream.Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(sizeof(Shared))),
                 "cudaFuncSetAttribute");
}

void WkvBlocks(Stream& stream, const WkvArgs& args) {
  const bool aligned =
      IsAligned(args.r) && IsAligned(args.k) && IsAligned(args.v) && IsAligned(args.w);
  Launch(stream, "wkv_blocks", aligned ? WkvBlocksKernel<true> : WkvBlocksKernel<false>,
         dim3(BlocksFor(args.spans.count * args.heads, 1)), kThreads, sizeof(Shared),
         args);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
