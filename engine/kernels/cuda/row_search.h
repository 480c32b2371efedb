// A block of threads searches one row of logits: for the highest, for the fewest of the
// highest that add up to something, for the place where a running sum gets somewhere.
// Nothing is sorted: cuts are found digit by digit of keys that order as logits do,
// places by halving of a kind, into a part a warp. Device code.
//
// Invariants: sums are of integers, and what threads add to together is added atomically,
// so results do not depend on their order. Every function is called by all threads of the
// block with the same arguments, and gives all of them the same answer.
//
// Logits are read as Finite says: NaN is -inf, +inf the largest float.
#pragma once

#include <climits>
#include <cstdint>

#include "engine/kernels/cuda/device.h"

namespace goldfinch::GOLDFINCH_CUDA {

inline constexpr int kRowThreads = 1024;
inline constexpr int kRowWarps = kRowThreads / kWarp;

// A key is read in three digits, highest first: 11 bits, 11 and 10.
inline constexpr int kDigitValues = 1 << 11;
static_assert(kDigitValues <= 2 * kRowThreads);

struct RowShared {
  std::uint64_t parts[kRowWarps];
  // Sums by one digit, in two halves: shared memory adds 32 bits at a time by itself.
  unsigned low[kDigitValues], high[kDigitValues];
  std::uint64_t above, equal;
  int digit;
};

__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int WarpNumber() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

__device__ __forceinline__ float MinusInfinity() { return __uint_as_float(0xff800000u); }
__device__ __forceinline__ float Finite(float logit) {
  const float largest = __uint_as_float(0x7f7fffffu);
  if (!(logit > MinusInfinity())) return MinusInfinity();
  return logit > largest ? largest : logit;
}

// Unsigned integers above 0 that order as logits do; -0 and +0 are equal.
__device__ __forceinline__ unsigned KeyOf(float logit) {
  const unsigned bits = __float_as_uint(logit + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float LogitOf(unsigned key) {
  return __uint_as_float((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

// A token with its key, as one number: the higher is the higher logit or, of equals, the
// lower id.
__device__ __forceinline__ std::uint64_t Ranked(unsigned key, int token) {
  return static_cast<std::uint64_t>(key) << 32 | ~static_cast<unsigned>(token);
}
__device__ __forceinline__ unsigned RankedKey(std::uint64_t ranked) {
  return static_cast<unsigned>(ranked >> 32);
}
__device__ __forceinline__ int RankedToken(std::uint64_t ranked) {
  return static_cast<int>(~static_cast<unsigned>(ranked));
}

// Ids [begin, begin + count).
struct Ids {
  int begin = 0, count = 0;
};

// Consecutive parts, one for each warp, of whole warps' widths.
__device__ __forceinline__ Ids PartOf(Ids ids, int warp) {
  const int size = (ids.count + kRowThreads - 1) / kRowThreads * kWarp;
  const int first = warp * size < ids.count ? warp * size : ids.count;
  const int rest = ids.count - first;
  return {ids.begin + first, size < rest ? size : rest};
}

// visit(token, logit) by every thread for those of its warp's part that are its own, by
// increasing id.
template <typename Visit>
__device__ __forceinline__ void ForLogits(const float* row, Ids ids, const Visit& visit) {
  constexpr int kAtOnce = 8;  // loads on their way
  const Ids part = PartOf(ids, WarpNumber());
  for (int first = Lane(); first < part.count; first += kAtOnce * kWarp) {
    float x[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i * kWarp;
      x[i] = at < part.count ? row[part.begin + at] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i * kWarp;
      if (at < part.count) visit(part.begin + at, Finite(x[i]));
    }
  }
}

// The highest logit, Ranked: of all, and of those that ForLogits gives this thread (0
// where there are none).
struct Highest {
  std::uint64_t all = 0, own = 0;
};
__device__ __forceinline__ Highest FindHighest(RowShared& s, const float* row,
                                               int count) {
  Highest highest;
  ForLogits(row, {0, count}, [&](int token, float logit) {
    const std::uint64_t ranked = Ranked(KeyOf(logit), token);
    if (ranked > highest.own) highest.own = ranked;
  });
  std::uint64_t of_warp = highest.own;
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const std::uint64_t other = __shfl_xor_sync(kAllLanes, of_warp, lanes);
    if (other > of_warp) of_warp = other;
  }
  __syncthreads();
  if (Lane() == 0) s.parts[WarpNumber()] = of_warp;
  __syncthreads();
  for (int i = 0; i < kRowWarps; ++i)
    if (s.parts[i] > highest.all) highest.all = s.parts[i];
  return highest;
}

// The sum of measure(token, logit) over the row.
template <typename Measure>
__device__ __forceinline__ std::uint64_t SumOver(RowShared& s, const float* row,
                                                 int count, const Measure& measure) {
  std::uint64_t own = 0;
  ForLogits(row, {0, count},
            [&](int token, float logit) { own += measure(token, logit); });
  return BlockSum<kRowThreads>(own, s.parts);
}

// Of this lane's and all lower lanes' values.
__device__ __forceinline__ std::uint64_t WarpRunningSum(std::uint64_t value) {
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const std::uint64_t other =
        __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(lanes));
    if (Lane() >= lanes) value += other;
  }
  return value;
}

// The first token at which the running sum of measure(token, logit) exceeds
// target(the whole sum), which is below the whole sum.
template <typename Measure, typename Target>
__device__ __forceinline__ int Locate(RowShared& s, const float* row, int count,
                                      const Measure& measure, const Target& target) {
  Ids ids = {0, count};
  std::uint64_t rest = 0;
  bool whole = true;
  do {
    std::uint64_t own = 0;
    ForLogits(row, ids, [&](int token, float logit) { own += measure(token, logit); });
    const std::uint64_t sum = BlockSum<kRowThreads>(own, s.parts);
    if (whole) rest = target(sum);
    whole = false;
    int part = 0;
    while (part < kRowWarps - 1 && rest >= s.parts[part]) rest -= s.parts[part++];
    ids = PartOf(ids, part);
  } while (ids.count > kWarp);
  // Every warp looks at the same few.
  const int token = ids.begin + Lane();
  std::uint64_t sum = Lane() < ids.count ? measure(token, Finite(row[token])) : 0;
  sum = WarpRunningSum(sum);
  return ids.begin + __ffs(static_cast<int>(__ballot_sync(kAllLanes, sum > rest))) - 1;
}

// The highest key at which the measures of it and of all higher keys reach `target`,
// which is above 0.
struct Cut {
  bool found = false;  // else all of them together do not
  unsigned key = 0;
  std::uint64_t above = 0;  // measures of higher keys
  std::uint64_t equal = 0;  // of this key
};

__device__ __forceinline__ void AddTo(RowShared& s, unsigned value,
                                      std::uint64_t measure) {
  const auto low = static_cast<unsigned>(measure);
  const unsigned before = atomicAdd(&s.low[value], low);
  const unsigned high =
      static_cast<unsigned>(measure >> 32) + (before + low < before ? 1u : 0u);
  if (high != 0) atomicAdd(&s.high[value], high);
}

// Walks down the sums of one digit's values from the highest to the one in which `rest`
// is reached, and leaves it in the shared memory. Each thread has two values. A barrier
// comes before and after it.
__device__ __forceinline__ void PickDigit(RowShared& s, int values, std::uint64_t rest) {
  const int value = values - 1 - 2 * static_cast<int>(threadIdx.x);
  std::uint64_t sum[2] = {};
  for (int i = 0; i < 2; ++i)
    if (value - i >= 0)
      sum[i] = static_cast<std::uint64_t>(s.high[value - i]) << 32 | s.low[value - i];
  const std::uint64_t own = sum[0] + sum[1], running = WarpRunningSum(own);
  if (Lane() == kWarp - 1) s.parts[WarpNumber()] = running;
  __syncthreads();
  std::uint64_t above = running - own;
  for (int i = 0; i < WarpNumber(); ++i) above += s.parts[i];
  if (above >= rest || above + own < rest) return;
  const bool first = above + sum[0] >= rest;
  s.digit = first ? value : value - 1;
  s.above = first ? above : above + sum[0];
  s.equal = first ? sum[0] : sum[1];
}

// visit(add) calls add(key, measure) for what this thread has, the same each time. A
// target that is not reached is the first digit's to find.
template <typename Visit>
__device__ __forceinline__ Cut Descend(RowShared& s, std::uint64_t target,
                                       const Visit& visit) {
  Cut cut;
  for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift - 10) {
    const int bits = shift > 0 ? 11 : 10, values = 1 << bits;
    for (int i = static_cast<int>(threadIdx.x); i < values; i += kRowThreads)
      s.low[i] = s.high[i] = 0;
    __syncthreads();
    if (threadIdx.x == 0) s.digit = -1;
    visit([&](unsigned key, std::uint64_t measure) {
      const unsigned prefix = key >> shift;
      if (prefix >> bits == cut.key)
        AddTo(s, prefix & static_cast<unsigned>(values - 1), measure);
    });
    __syncthreads();
    PickDigit(s, values, target - cut.above);
    __syncthreads();
    if (s.digit < 0) return {};
    cut.key = cut.key << bits | static_cast<unsigned>(s.digit);
    cut.above += s.above;
    cut.equal = s.equal;
  }
  cut.found = true;
  return cut;
}

// Tokens above a key, and of those at the key the ones up to `last`.
struct Kept {
  unsigned key = 0;
  int last = INT_MAX;
  __device__ bool Has(unsigned of_token, int token) const {
    return of_token > key || (of_token == key && token <= last);
  }
};

// A key that at least `count` tokens reach: so many threads have such a token.
__device__ __forceinline__ unsigned FloorOf(RowShared& s, const Highest& highest,
                                            int count) {
  if (count > kRowThreads) return 0;
  const auto own = [&](const auto& add) {
    if (highest.own != 0) add(RankedKey(highest.own), 1);
  };
  const Cut cut = Descend(s, static_cast<std::uint64_t>(count), own);
  return cut.key;
}

// The fewest of the highest tokens of `kept` whose measures, measure(logit), add up to
// `target`, ties to the lowest id; `kept` where all do not. What is wanted has keys of at
// least `floor`.
template <typename Measure>
__device__ __forceinline__ Kept KeepHighest(RowShared& s, const float* row, int count,
                                            const Kept& kept, unsigned floor,
                                            std::uint64_t target,
                                            const Measure& measure) {
  const auto measures = [&](const auto& add) {
    ForLogits(row, {0, count}, [&](int token, float logit) {
      const unsigned key = KeyOf(logit);
      if (key < floor || !kept.Has(key, token)) return;
      const std::uint64_t value = measure(logit);
      if (value != 0) add(key, value);
    });
  };
  const Cut cut = Descend(s, target, measures);
  if (!cut.found) return kept;
  const Kept equals = {cut.key, cut.key == kept.key ? kept.last : INT_MAX};
  const std::uint64_t each = measure(LogitOf(cut.key));
  const std::uint64_t wanted = (target - cut.above + each - 1) / each;
  if (wanted * each >= cut.equal) return equals;
  const auto is_equal = [&](int token, float logit) -> std::uint64_t {
    return KeyOf(logit) == equals.key && token <= equals.last ? 1 : 0;
  };
  const int last =
      Locate(s, row, count, is_equal, [wanted](std::uint64_t) { return wanted - 1; });
  return {cut.key, last};
}

}  // namespace goldfinch::GOLDFINCH_CUDA
