// Attend and AttendFinish against plain softmax attention.
//
// Tolerance: a score, 64 products, is off by a = 66 u sum |q k| / 8, and exp of it and of
// the maximum's corrections by some u and by u of its argument, at most 2 u of the
// largest score; so a weight is off by l = 2 a + 4 u max |score| + 8 u of itself, as is
// the sum of weights, and sums of T tokens by another (T + 20) u:
//   |out - exact| <= 2 (l + (T + 20) u) sum of |weight v|.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "engine/model/attend_runs.h"
#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

using reference::Attention;

Grid Tolerance(const Attention& in) {
  Attention sizes = in;
  sizes.values = reference::Abs(in.values);
  const Grid weighted = reference::Attend(sizes);
  sizes.q = reference::Abs(in.q);
  sizes.keys = reference::Abs(in.keys);
  Grid tolerance(in.q.rows(), in.q.cols());
  for (std::int64_t row = 0; row < in.q.rows(); ++row) {
    const std::vector<std::int64_t> tokens = reference::SeenTokens(in, row);
    for (std::int64_t head = 0; head < in.q.cols() / 64; ++head) {
      // Bounds max |score| too.
      const std::vector<double> products =
          reference::AttentionScores(sizes, row, head, tokens);
      const double largest = *std::max_element(products.begin(), products.end());
      const double weight = (2 * 66 + 4) * kF32Unit * largest + 8 * kF32Unit;
      const double sum = static_cast<double>(tokens.size() + 20) * kF32Unit;
      for (std::int64_t j = head * 64; j < (head + 1) * 64; ++j)
        tolerance(row, j) = 2 * (weight + sum) * weighted(row, j);
    }
  }
  return tolerance;
}

struct Shape {
  std::int64_t heads = 1;
  std::int64_t page_tokens = 16;
  std::vector<std::int64_t> lengths = {};  // tokens of each sequence
  std::int64_t queries = 1;                // the last tokens of each sequence
  // Tiles that all sequences begin with, as far as they go.
  std::int64_t shared = 0;
};

// Sequences in tiles at random places; what no query may see is NaN.
Attention RandomAttention(const Shape& shape, DType type, std::uint64_t seed) {
  Attention in;
  in.page_tokens = shape.page_tokens;
  in.tile_begin = {0};
  std::int64_t num_tiles = 0;
  for (const std::int64_t length : shape.lengths)
    num_tiles += (length + shape.page_tokens - 1) / shape.page_tokens;
  std::vector<std::int32_t> places(static_cast<std::size_t>(num_tiles + 2));
  std::iota(places.begin(), places.end(), 0);
  std::mt19937_64 random(seed);
  std::shuffle(places.begin(), places.end(), random);
  const std::int64_t rows = (num_tiles + 2) * shape.page_tokens;
  in.keys = in.values = Grid(rows, shape.heads * 64, std::nan(""));
  const Grid keys = RandomGrid(rows, shape.heads * 64, seed + 1, type);
  const Grid values = RandomGrid(rows, shape.heads * 64, seed + 2, type);
  for (std::size_t s = 0; s < shape.lengths.size(); ++s) {
    for (std::int64_t at = 0; at < shape.lengths[s]; at += shape.page_tokens) {
      in.tile_position.push_back(at);
      if (s > 0 && at / shape.page_tokens < shape.shared) {
        in.tile.push_back(in.tile[static_cast<std::size_t>(at / shape.page_tokens)]);
        continue;
      }
      const std::int32_t tile = places[in.tile.size()];
      in.tile.push_back(tile);
      const std::int64_t filled = std::min(shape.page_tokens, shape.lengths[s] - at);
      for (std::int64_t t = 0; t < filled; ++t) {
        const std::int64_t row = tile * shape.page_tokens + t;
        for (std::int64_t j = 0; j < keys.cols(); ++j) {
          in.keys(row, j) = keys(row, j);
          in.values(row, j) = values(row, j);
        }
      }
    }
    in.tile_begin.push_back(static_cast<std::int32_t>(in.tile.size()));
    for (std::int64_t q = std::min(shape.queries, shape.lengths[s]); q > 0; --q) {
      in.position.push_back(shape.lengths[s] - q);
      in.span.push_back(static_cast<std::int32_t>(s));
    }
  }
  const auto queries = static_cast<std::int64_t>(in.position.size());
  in.q = RandomGrid(queries, shape.heads * 64, seed + 3);
  return in;
}

class DeviceAttention {
 public:
  DeviceAttention(Backend& backend, const Attention& in, DType type)
      : backend_(backend), in_(in), q_(backend, in.q), position_(backend, in.position) {
    tiles_ = {.type = type, .heads = in.q.cols() / 64, .page_tokens = in.page_tokens};
    const std::int64_t count = in.keys.rows() / in.page_tokens;
    // Everything that is not scattered is NaN, between the tiles' tokens too.
    memory_ = std::make_unique<DeviceArray<std::uint8_t>>(
        backend, std::vector<std::uint8_t>(
                     static_cast<std::size_t>(count * tiles_.tile_bytes()), 0xff));
    tiles_.data = memory_->data();
    std::vector<std::int64_t> rows(static_cast<std::size_t>(in.keys.rows()));
    std::iota(rows.begin(), rows.end(), 0);
    const DeviceArray<std::int64_t> places(backend, rows);
    const Tensor keys(backend, in.keys), values(backend, in.values);
    backend.StoreTiles({.num_layers = 1,
                        .layer = {{.k = *keys, .v = *values, .tiles = tiles_}},
                        .row = places.data()});
  }

  // A carry for `rows` queries, its elements NaN.
  Tensor Carry(std::int64_t rows) const {
    return Tensor(backend_, rows, in_.q.cols() / 64 * 66, DType::kF32);
  }

  // Query rows [begin, begin + rows of carry) over tiles [from[s], to[s]) of each list s.
  void Fold(std::int64_t begin, const std::vector<std::int32_t>& from,
            const std::vector<std::int32_t>& to, bool first, const Tensor& carry) const {
    std::vector<std::int32_t> tile_begin = {0}, tile;
    std::vector<std::int64_t> position;
    for (std::size_t s = 0; s < from.size(); ++s) {
      for (auto i = static_cast<std::size_t>(from[s]);
           i < static_cast<std::size_t>(to[s]); ++i) {
        tile.push_back(in_.tile[i]);
        position.push_back(in_.tile_position[i]);
      }
      tile_begin.push_back(static_cast<std::int32_t>(tile.size()));
    }
    const std::vector<std::int32_t> chunks =
        ChunkBegins(begin, carry->rows, tile_begin, position);
    const DeviceArray<std::int32_t> tiles(backend_, tile), chunk_begins(backend_, chunks);
    const DeviceArray<std::int64_t> positions(backend_, position);
    AttendRuns plan;
    plan.Build(tile_begin, tile,
               std::span(in_.span).subspan(static_cast<std::size_t>(begin),
                                           static_cast<std::size_t>(carry->rows)));
    const DeviceArray<std::int32_t> order(
        backend_, std::vector(plan.order().begin(), plan.order().end()));
    const DeviceArray<AttendRun> runs(
        backend_, std::vector(plan.runs().begin(), plan.runs().end()));
    const DeviceArray<std::int32_t> num_runs(
        backend_, {static_cast<std::int32_t>(plan.runs().size())});
    backend_.Attend({.q = q_->RowsFrom(begin, carry->rows),
                     .tiles = tiles_,
                     .heads = in_.q.cols() / 64,
                     .position = position_.data() + begin,
                     .order = order.data(),
                     .runs = runs.data(),
                     .num_runs = num_runs.data(),
                     .tile = tiles.data(),
                     .tile_position = positions.data(),
                     .chunk_begin = chunk_begins.data(),
                     .num_chunks = chunks.back(),
                     .carry = *carry,
                     .first = first});
    backend_.Synchronize();
  }

  // AttendArgs::chunk_begin of query rows [begin, begin + rows).
  std::vector<std::int32_t> ChunkBegins(std::int64_t begin, std::int64_t rows,
                                        const std::vector<std::int32_t>& tile_begin,
                                        const std::vector<std::int64_t>& position) const {
    const std::int64_t chunk_tokens = KvTiles::kCutTiles * in_.page_tokens;
    std::vector<std::int32_t> chunks = {0};
    for (std::int64_t row = begin; row < begin + rows; ++row) {
      const auto list = static_cast<std::size_t>(in_.span[static_cast<std::size_t>(row)]);
      std::int32_t count = 0;
      for (auto i = tile_begin[list]; i < tile_begin[list + 1]; ++i) {
        const std::int64_t at = position[static_cast<std::size_t>(i)];
        if (at % chunk_tokens == 0 && at <= in_.position[static_cast<std::size_t>(row)])
          ++count;
      }
      chunks.push_back(chunks.back() + count);
    }
    return chunks;
  }

  Tensor Finish(const Tensor& carry) const {
    Tensor out(backend_, carry->rows, in_.q.cols(), DType::kF32);
    backend_.AttendFinish(*carry, {}, *out);
    EXPECT_TRUE(carry.SurroundingsAreIntact() && out.SurroundingsAreIntact());
    return out;
  }

  // All tiles in one call.
  Tensor Attend(std::int64_t begin, std::int64_t rows) const {
    const Tensor carry = Carry(rows);
    Fold(begin, ListStarts(), ListEnds(), /*first=*/true, carry);
    return Finish(carry);
  }

  std::vector<std::int32_t> ListStarts() const {
    return {in_.tile_begin.begin(), in_.tile_begin.end() - 1};
  }
  std::vector<std::int32_t> ListEnds() const {
    return {in_.tile_begin.begin() + 1, in_.tile_begin.end()};
  }

 private:
  Backend& backend_;
  const Attention& in_;
  const Tensor q_;
  KvTiles tiles_;
  std::unique_ptr<DeviceArray<std::uint8_t>> memory_;
  const DeviceArray<std::int64_t> position_;
};

class AttendTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(AttendTest);

constexpr DType kTypes[] = {DType::kF32, DType::kBf16};

TEST_P(AttendTest, AttentionIsTheSoftmaxOverAllTokensUpToTheQuery) {
  const Shape shapes[] = {
      {.lengths = {1}},
      {.heads = 2, .lengths = {16, 17, 1, 40}, .queries = 5},
      {.heads = 3, .page_tokens = 64, .lengths = {200, 63}, .queries = 70},
      {.page_tokens = 5, .lengths = {23, 4}, .queries = 23},
      {.page_tokens = 256, .lengths = {300}, .queries = 2},
      {.page_tokens = 1, .lengths = {7, 2}, .queries = 7},
      {.heads = 2, .lengths = {400, 290, 257, 300, 510}, .queries = 2, .shared = 16}};
  for (const Shape& shape : shapes) {
    for (const DType type : kTypes) {
      const Attention in = RandomAttention(shape, type, 1);
      const DeviceAttention attention(backend(), in, type);
      ExpectClose(attention.Attend(0, in.q.rows()).Read(), reference::Attend(in),
                  Tolerance(in));
    }
  }
}

// Scores of hundreds, growing and falling: sums are rescaled at every tile, some weights
// vanish.
TEST_P(AttendTest, LargeScoresNeitherOverflowNorVanishTogether) {
  for (const double direction : {1.0, -1.0}) {
    Attention in = RandomAttention({.lengths = {160}, .queries = 160}, DType::kF32, 2);
    for (std::size_t i = 0; i < in.tile.size(); ++i) {
      for (std::int64_t t = 0; t < 16; ++t) {
        const auto at = static_cast<double>(in.tile_position[i] + t);
        for (std::int64_t j = 0; j < 64; ++j)
          in.keys(in.tile[i] * 16 + t, j) = direction * (at - 80.0);
      }
    }
    const DeviceAttention attention(backend(), in, DType::kF32);
    ExpectClose(attention.Attend(0, 160).Read(), reference::Attend(in), Tolerance(in));
  }
}

TEST_P(AttendTest, EqualKeysAverageTheValues) {
  Attention in = RandomAttention({.lengths = {48}}, DType::kF32, 3);
  for (std::int64_t i = 0; i < in.keys.rows(); ++i)
    for (std::int64_t j = 0; j < 64; ++j) in.keys(i, j) = 1.0;
  const DeviceAttention attention(backend(), in, DType::kF32);
  ExpectClose(attention.Attend(0, 1).Read(), reference::Attend(in), Tolerance(in));
}

TEST_P(AttendTest, QueriesStandAlone) {
  const Shape shape = {.heads = 2, .lengths = {90, 33, 1}, .queries = 40};
  for (const DType type : kTypes) {
    const Attention in = RandomAttention(shape, type, 4);
    const DeviceAttention attention(backend(), in, type);
    ExpectRowsStandAlone(in.q.rows(), [&](std::int64_t begin, std::int64_t count) {
      return attention.Attend(begin, count).Bits();
    });
  }
}

// What several have in common is read for all of them; of the last one, nothing else.
TEST_P(AttendTest, QueriesOfSequencesWithACommonPastStandAlone) {
  const Shape shapes[] = {
      {.heads = 2, .lengths = {200, 150, 190, 300, 270, 128}, .queries = 1, .shared = 8},
      {.lengths = {410, 280, 300}, .queries = 3, .shared = 17},
      {.heads = 3,
       .page_tokens = 64,
       .lengths = {1100, 1030},
       .queries = 9,
       .shared = 16}};
  for (const Shape& shape : shapes) {
    for (const DType type : kTypes) {
      const Attention in = RandomAttention(shape, type, 21);
      const DeviceAttention attention(backend(), in, type);
      ExpectRowsStandAlone(in.q.rows(), [&](std::int64_t begin, std::int64_t count) {
        return attention.Attend(begin, count).Bits();
      });
    }
  }
}

TEST_P(AttendTest, AnyCutOfTheTilesIntoCallsGivesTheSameBits) {
  const Shape shape = {
      .heads = 2, .lengths = {400, 133, 270, 129}, .queries = 20, .shared = 8};
  // The CPU keeps more than is promised.
  const std::int32_t cut = GetParam().device == Device::kCpu ? 1 : KvTiles::kCutTiles;
  for (const DType type : kTypes) {
    const Attention in = RandomAttention(shape, type, 5);
    const DeviceAttention attention(backend(), in, type);
    const std::vector<RowBits> whole = attention.Attend(0, in.q.rows()).Bits();
    const std::vector<std::int32_t> ends = attention.ListEnds();
    for (const std::uint64_t seed : {6u, 7u, 8u}) {
      std::mt19937_64 random(seed);
      const Tensor carry = attention.Carry(in.q.rows());
      std::vector<std::int32_t> from = attention.ListStarts();
      for (bool first = true; first || from != ends; first = false) {
        std::vector<std::int32_t> to = from;
        for (std::size_t s = 0; s < to.size(); ++s)
          to[s] =
              std::min(ends[s], to[s] + cut * static_cast<std::int32_t>(random() % 4));
        attention.Fold(0, from, to, first, carry);
        from = to;
      }
      EXPECT_EQ(attention.Finish(carry).Bits(), whole);
    }
  }
}

// Queries of one sequence read its tiles together: as many as that takes, and more.
TEST_P(AttendTest, ManyQueriesOfOneSequenceStandAlone) {
  const Attention in =
      RandomAttention({.heads = 3, .lengths = {150}, .queries = 150}, DType::kBf16, 12);
  const DeviceAttention attention(backend(), in, DType::kBf16);
  ExpectRowsStandAlone(in.q.rows(), [&](std::int64_t begin, std::int64_t count) {
    return attention.Attend(begin, count).Bits();
  });
}

// The norm is that of AddNorm over what there is without it.
TEST_P(AttendTest, TheEndNormsOverAllHeads) {
  const Attention in =
      RandomAttention({.heads = 5, .lengths = {150, 33}, .queries = 20}, DType::kF32, 16);
  const DeviceAttention attention(backend(), in, DType::kF32);
  const std::int64_t rows = in.q.rows();
  const Tensor carry = attention.Carry(rows);
  attention.Fold(0, attention.ListStarts(), attention.ListEnds(), /*first=*/true, carry);
  const Tensor plain = attention.Finish(carry);
  const DeviceNorm norm(backend(), RandomNorm(320, 17));
  for (const DType type : kTypes) {
    const Tensor want(backend(), rows, 320, type), got(backend(), rows, 320, type);
    backend().AddNorm({.a = *plain, .norm = norm.get(), .out = *want});
    backend().AttendFinish(*carry, norm.get(), *got);
    EXPECT_EQ(got.Bits(), want.Bits());
    EXPECT_TRUE(got.SurroundingsAreIntact());
  }
}

// Paging: the same sequence with its tiles elsewhere.
TEST_P(AttendTest, PlaceOfATileDoesNotChangeBits) {
  const Shape shape = {.lengths = {90}, .queries = 10};
  Attention in = RandomAttention(shape, DType::kBf16, 9);
  const std::vector<RowBits> bits =
      DeviceAttention(backend(), in, DType::kBf16).Attend(0, 10).Bits();
  Attention moved = in;
  const auto tiles = static_cast<std::int32_t>(in.keys.rows() / 16);
  for (std::int32_t& tile : moved.tile) tile = tiles - 1 - tile;
  for (std::int64_t i = 0; i < in.keys.rows(); ++i) {
    for (std::int64_t j = 0; j < 64; ++j) {
      const std::int64_t to = (tiles - 1 - i / 16) * 16 + i % 16;
      moved.keys(to, j) = in.keys(i, j);
      moved.values(to, j) = in.values(i, j);
    }
  }
  EXPECT_EQ(DeviceAttention(backend(), moved, DType::kBf16).Attend(0, 10).Bits(), bits);
}

// A prompt's query sees the same tokens whether later ones are already in the cache.
TEST_P(AttendTest, LaterTokensOfTheSequenceDoNotChangeBits) {
  Attention in = RandomAttention({.lengths = {64}, .queries = 30}, DType::kF32, 10);
  const std::vector<RowBits> bits =
      DeviceAttention(backend(), in, DType::kF32).Attend(0, 30).Bits();
  for (std::int64_t t = 0; t < 16; ++t)  // the last tile: positions 48 to 63
    for (std::int64_t j = 0; j < 64; ++j)
      in.values(in.tile[3] * 16 + t, j) = std::nan("");
  const std::vector<RowBits> poisoned =
      DeviceAttention(backend(), in, DType::kF32).Attend(0, 30).Bits();
  for (std::size_t i = 0; i < 30; ++i) EXPECT_EQ(poisoned[i] == bits[i], i < 14) << i;
}

TEST_P(AttendTest, NaNInAKeyOrAQueryReachesItsQueryAlone) {
  const Shape shape = {.lengths = {40, 40}, .queries = 1};
  for (const bool in_key : {true, false}) {
    Attention in = RandomAttention(shape, DType::kF32, 11);
    if (in_key) in.keys(in.tile[0] * 16 + 3, 7) = std::nan("");
    if (!in_key) in.q(0, 7) = std::nan("");
    const Grid out = DeviceAttention(backend(), in, DType::kF32).Attend(0, 2).Read();
    for (std::int64_t j = 0; j < 64; ++j) {
      EXPECT_TRUE(std::isnan(out(0, j)));
      EXPECT_FALSE(std::isnan(out(1, j)));
    }
  }
}

}  // namespace
}  // namespace goldfinch
