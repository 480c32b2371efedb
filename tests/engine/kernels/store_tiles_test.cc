// StoreTiles: what AddNorm and Rope make of keys and values, in their places. That places
// are those where Attend looks is attend_test's business.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kRows = 40;
constexpr int kLayers = 3;
constexpr DType kTypes[] = {DType::kF32, DType::kBf16};

class StoreTilesTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(StoreTilesTest);

// Tiles of one layer, all of their bytes 0xab.
class TileMemory {
 public:
  TileMemory(Backend& backend, DType type, std::int64_t heads, std::int64_t page_tokens,
             std::int64_t tokens)
      : tiles_{.type = type, .heads = heads, .page_tokens = page_tokens},
        memory_(backend, std::vector<std::uint8_t>(
                             static_cast<std::size_t>((tokens / page_tokens + 1) *
                                                      tiles_.tile_bytes()),
                             0xab)) {
    tiles_.data = memory_.data();
  }
  const KvTiles& get() const { return tiles_; }
  std::vector<std::uint8_t> Read() const { return memory_.Read(); }

 private:
  KvTiles tiles_;
  DeviceArray<std::uint8_t> memory_;
};

// kRows places, beginning with place 3, in no order.
std::vector<std::int64_t> Places() {
  std::vector<std::int64_t> places(kRows);
  std::iota(places.begin(), places.end(), 3);
  std::mt19937_64 random(15);
  std::shuffle(places.begin(), places.end(), random);
  return places;
}

// Tokens go to their tile one at a time or many at once, in any order, and leave the
// others alone.
TEST_P(StoreTilesTest, TokensOneByOneAreThoseStoredTogether) {
  for (const DType type : kTypes) {
    for (const std::int64_t page_tokens : {5, 16, 64}) {
      const Grid k = RandomGrid(kRows, 192, 13), v = RandomGrid(kRows, 192, 14);
      const DeviceArray<std::int64_t> places(backend(), Places());
      const TileMemory together(backend(), type, 3, page_tokens, kRows + 5);
      const TileMemory one_by_one(backend(), type, 3, page_tokens, kRows + 5);
      const DeviceNorm norm_k(backend(), RandomNorm(192, 16));
      const DeviceNorm norm_v(backend(), RandomNorm(192, 17));
      const auto store = [&](const TileMemory& to, const Tensor& keys,
                             const Tensor& values, std::int64_t begin,
                             std::int64_t count) {
        backend().StoreTiles({.num_layers = 1,
                              .layer = {{.k = keys->RowsFrom(begin, count),
                                         .v = values->RowsFrom(begin, count),
                                         .norm_k = norm_k.get(),
                                         .norm_v = norm_v.get(),
                                         .tiles = to.get()}},
                              .row = places.data() + begin});
      };
      const Tensor keys(backend(), k), values(backend(), v);
      store(together, keys, values, 0, kRows);
      const Tensor keys_again(backend(), k), values_again(backend(), v);
      for (std::int64_t i = kRows - 1; i >= 0; --i)
        store(one_by_one, keys_again, values_again, i, 1);
      const std::vector<std::uint8_t> all = together.Read();
      EXPECT_EQ(all, one_by_one.Read());
      const auto untouched = std::count(all.begin(), all.end(), 0xab);
      EXPECT_GE(untouched, static_cast<std::int64_t>(all.size()) -
                               kRows * 192 * 2 * SizeOf(type));
    }
  }
}

// Several layers at once, normed and turned or not: the bytes of the same by other ops,
// one layer after the other.
TEST_P(StoreTilesTest, LayersAreNormedAndTurnedAsByOpsOfTheirOwn) {
  std::vector<std::int64_t> position;
  for (std::int64_t i = 0; i < kRows; ++i) position.push_back(i * 97 + 5);
  std::vector<double> frequency;
  for (int i = 0; i < kRopePairs; ++i) frequency.push_back(std::pow(10000.0, -i / 32.0));
  const DeviceArray<std::int64_t> places(backend(), Places());
  const DeviceArray<std::int64_t> positions(backend(), position);
  const DeviceArray<double> frequencies(backend(), frequency);
  // Fewer and more columns than a block of threads takes at once; of narrower rows a
  // device's AddNorm may add in another order.
  for (const std::int64_t heads : {3, 21}) {
    const std::int64_t cols = heads * 64;
    for (const DType type : kTypes) {
      for (const bool normed : {false, true}) {
        for (const bool turned : {false, true}) {
          StoreTilesArgs args = {.num_layers = kLayers,
                                 .row = places.data(),
                                 .position = turned ? positions.data() : nullptr,
                                 .frequency = turned ? frequencies.data() : nullptr};
          std::vector<std::unique_ptr<Tensor>> inputs;
          std::vector<std::unique_ptr<DeviceNorm>> norms;
          std::vector<std::unique_ptr<TileMemory>> got, want;
          const auto input = [&](std::uint64_t seed) {
            return **inputs.emplace_back(
                std::make_unique<Tensor>(backend(), RandomGrid(kRows, cols, seed)));
          };
          const auto norm = [&](std::uint64_t seed) {
            if (!normed) return NormWeights{};
            return norms
                .emplace_back(
                    std::make_unique<DeviceNorm>(backend(), RandomNorm(cols, seed)))
                ->get();
          };
          const auto tiles = [&](std::vector<std::unique_ptr<TileMemory>>& of) {
            return of
                .emplace_back(std::make_unique<TileMemory>(backend(), type, heads, 16,
                                                           kRows + 5))
                ->get();
          };
          for (std::uint64_t i = 0; i < kLayers; ++i) {
            StoreTilesArgs::Layer& layer = args.layer[i];
            layer = {.k = input(10 * i + 1),
                     .v = input(10 * i + 2),
                     .norm_k = norm(10 * i + 3),
                     .norm_v = norm(10 * i + 4),
                     .tiles = tiles(got)};
            const Matrix k = input(10 * i + 1), v = input(10 * i + 2);
            if (normed) {
              backend().AddNorm({.a = k, .norm = layer.norm_k, .out = k});
              backend().AddNorm({.a = v, .norm = layer.norm_v, .out = v});
            }
            if (turned) backend().Rope(k, positions.data(), frequencies.data());
            backend().StoreTiles({.num_layers = 1,
                                  .layer = {{.k = k, .v = v, .tiles = tiles(want)}},
                                  .row = places.data()});
          }
          backend().StoreTiles(args);
          for (std::size_t i = 0; i < kLayers; ++i)
            EXPECT_EQ(got[i]->Read(), want[i]->Read())
                << heads << " heads, layer " << i << (normed ? ", normed" : "")
                << (turned ? ", turned" : "");
        }
      }
    }
  }
}

}  // namespace
}  // namespace goldfinch
