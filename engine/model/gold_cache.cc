#include "engine/model/gold_cache.h"

#include <algorithm>
#include <cmath>

#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr Matrix kNone = {};
constexpr std::int64_t kRopePairs = 32;
constexpr std::int64_t kScaleBytes = sizeof(std::uint16_t);

std::int64_t TokenBytes(const ModelConfig& config) {
  return config.vocab_size <= 65536 ? 2 : 4;
}

}  // namespace

GoldCache::GoldCache(DeviceArena& arena, const ModelConfig& config,
                     const ModelWeights& weights, DType type, const GoldCacheShape& shape,
                     std::int64_t max_mix_width)
    : b_(arena.backend()), config_(config), weights_(weights), shape_(shape) {
  const std::int64_t d = config.n_embd, c = config.compressed_dim();
  const std::int64_t rows = shape.num_pages * shape.page_tokens;
  tokens_ = {arena.TakeBytes(rows * TokenBytes(config)), TokenBytes(config) == 2};
  keys_ = arena.Take(rows, c, shape.storage);
  if (shape.storage == DType::kI8)
    scales_ = static_cast<std::uint16_t*>(arena.TakeBytes(rows * kScaleBytes));
  const std::int64_t tile_rows = shape.num_tiles * shape.page_tokens;
  for (std::int32_t layer = 0; layer < config.num_gold(); ++layer)
    tiles_.push_back({.keys = arena.Take(tile_rows, d, type),
                      .values = arena.Take(tile_rows, d, type),
                      .page_tokens = shape.page_tokens});
  if (config.rope.has_value()) {
    double frequency[kRopePairs];
    for (std::int64_t i = 0; i < kRopePairs; ++i)
      frequency[i] = std::pow(config.rope->base * config.rope->rebase,
                              -2.0 * static_cast<double>(i) / config.head_size) /
                     config.rope->rescale;
    frequency_ = static_cast<double*>(arena.TakeBytes(sizeof frequency));
    b_.CopyToDevice(frequency_, frequency, sizeof frequency);
  }

  const std::int64_t targets = kMaxTargets, sources = 2 * kMaxTargets;
  source_row_ = {arena, sources};
  source_tokens_ = static_cast<std::int32_t*>(
      arena.TakeBytes(sources * static_cast<std::int64_t>(sizeof(std::int32_t))));
  for (Matrix* m : {&embedded_, &unit_, &decompressed_})
    *m = arena.Take(sources, d, DType::kF32);
  joined_ = arena.Take(sources, d + c, type);
  current_ = {arena, targets};
  previous_ = {arena, targets};
  position_ = {arena, targets};
  tile_row_ = {arena, targets};
  for (Matrix* m : {&n_, &n_prev_, &kappa_, &kappa_prev_, &delta_, &kv_, &normed_})
    *m = arena.Take(targets, d, DType::kF32);
  for (Matrix* m : {&mixed_, &kv_in_}) *m = arena.Take(targets, d, type);
  low_ = arena.Take(targets, max_mix_width, DType::kF32);
  for (Matrix* m : {&low_in_, &mix_in_}) *m = arena.Take(targets, max_mix_width, type);
}

void GoldCache::Append(const Matrix& x, const std::int32_t* tokens,
                       const std::int64_t* index, const Matrix& scratch) {
  b_.Activate(Activation::kNone, x, scratch);
  for (std::int64_t first = 0; first < x.rows; first += kMaxTargets) {
    const std::int64_t count = std::min(kMaxTargets, x.rows - first);
    const Matrix c = kv_.Rows(count).Cols(0, keys_.cols);
    b_.Gemm(scratch.RowsFrom(first, count), *weights_.compress, c);
    if (scales_ != nullptr)
      b_.ScatterQuantized(c, index + first, keys_, scales_);
    else
      b_.ScatterRows(c, index + first, keys_);
  }
  b_.ScatterTokens(tokens, index, x.rows, tokens_);
}

std::int64_t GoldCache::RowBytes(const ModelConfig& config, DType storage) {
  return TokenBytes(config) + config.compressed_dim() * SizeOf(storage) +
         (storage == DType::kI8 ? kScaleBytes : 0);
}

void GoldCache::WriteRows(std::int64_t row, std::span<const TokenId> tokens,
                          std::span<const std::byte> keys) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const std::int64_t key_bytes = keys_.cols * SizeOf(keys_.type);
  const std::int64_t stored_bytes = key_bytes + (scales_ != nullptr ? kScaleBytes : 0);
  GOLDFINCH_CHECK(static_cast<std::int64_t>(keys.size()) == count * stored_bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::byte* key = keys.data() + i * stored_bytes;
    const TokenId token = tokens[static_cast<std::size_t>(i)];
    const auto narrow = static_cast<std::uint16_t>(token);
    const void* stored = tokens_.narrow ? static_cast<const void*>(&narrow) : &token;
    b_.CopyToDevice(TokenAt(row + i), stored, TokenBytes(config_));
    b_.CopyToDevice(keys_.RowsFrom(row + i, 1).data, key, key_bytes);
    if (scales_ != nullptr)
      b_.CopyToDevice(scales_ + row + i, key + key_bytes, kScaleBytes);
  }
}

void* GoldCache::TokenAt(std::int64_t row) const {
  return static_cast<char*>(tokens_.data) + row * TokenBytes(config_);
}

void GoldCache::CopyPage(std::int32_t from, std::int32_t to) {
  const std::int64_t rows = shape_.page_tokens;
  b_.CopyOnDevice(TokenAt(to * rows), TokenAt(from * rows), rows * TokenBytes(config_));
  b_.CopyOnDevice(keys_.RowsFrom(to * rows, rows).data,
                  keys_.RowsFrom(from * rows, rows).data,
                  rows * keys_.stride * SizeOf(keys_.type));
  if (scales_ != nullptr)
    b_.CopyOnDevice(scales_ + to * rows, scales_ + from * rows, rows * kScaleBytes);
}

void GoldCache::Decompress(std::span<const ExpandTarget> targets) {
  source_row_.Clear();
  current_.Clear();
  previous_.Clear();
  position_.Clear();
  tile_row_.Clear();
  std::int64_t last_row = -1;  // cache row of the newest source
  for (const ExpandTarget& target : targets) {
    std::int64_t previous = -1;
    if (target.previous_row >= 0) {
      // Runs of consecutive tokens share their sources.
      if (target.previous_row != last_row) source_row_.Push(target.previous_row);
      previous = source_row_.size() - 1;
    }
    source_row_.Push(target.row);
    last_row = target.row;
    current_.Push(source_row_.size() - 1);
    previous_.Push(previous);
    position_.Push(target.position);
    tile_row_.Push(target.tile_row);
  }
  source_row_.Upload();
  current_.Upload();
  previous_.Upload();
  position_.Upload();
  tile_row_.Upload();

  const std::int64_t sources = source_row_.size();
  const std::int64_t d = config_.n_embd, c = config_.compressed_dim();
  const Matrix e = embedded_.Rows(sources), unit = unit_.Rows(sources);
  const Matrix kappa = decompressed_.Rows(sources), joined = joined_.Rows(sources);
  b_.GatherTokens(tokens_, source_row_.device(), sources, source_tokens_);
  b_.EmbedNorm(source_tokens_, weights_.embedding, weights_.ln0, e);
  b_.RmsNorm(e, unit);
  b_.Activate(Activation::kNone, e, joined.Cols(0, d));
  if (scales_ != nullptr)
    b_.GatherQuantized(keys_, scales_, source_row_.device(), joined.Cols(d, c));
  else
    b_.GatherRows(keys_, source_row_.device(), joined.Cols(d, c));
  b_.Gemm(joined, *weights_.decompress, kappa);
  b_.RmsNorm(kappa, kappa);

  const std::int64_t count = current_.size();
  b_.GatherRows(unit, current_.device(), n_.Rows(count));
  b_.GatherRows(unit, previous_.device(), n_prev_.Rows(count));
  b_.GatherRows(kappa, current_.device(), kappa_.Rows(count));
  b_.GatherRows(kappa, previous_.device(), kappa_prev_.Rows(count));
}

void GoldCache::ExpandLayer(const GoldWeights& w, std::int64_t count,
                            const KvTiles& tiles) {
  const std::int64_t width = w.kv_up[0]->in();
  const Matrix mixed = mixed_.Rows(count), delta = delta_.Rows(count);
  const Matrix z = low_.Rows(count).Cols(0, 2 * width);
  const Matrix z_in = mix_in_.Rows(count).Cols(0, 2 * width);
  b_.Lerp(n_.Rows(count), n_prev_.Rows(count), w.maa_v_cache, kNone, mixed);
  b_.Gemm(mixed, *w.kv_down, z);
  b_.Activate(Activation::kTanh, z, z_in);

  // a = lerp(x, x_prev, maa + z up);  LN(a + up(tanh(down(a))))
  const auto expand = [&](const Matrix& x, const Matrix& x_prev, const float* maa,
                          int half, const LowRank& pair, const NormWeights& norm) {
    const Matrix a = kv_.Rows(count), a_in = kv_in_.Rows(count);
    const Matrix low = low_.Rows(count).Cols(0, pair.down->out());
    const Matrix low_in = low_in_.Rows(count).Cols(0, pair.down->out());
    const Matrix normed = normed_.Rows(count);
    b_.Gemm(z_in.Cols(half * width, width), *w.kv_up[half], delta);
    b_.Lerp(x.Rows(count), x_prev.Rows(count), maa, delta, a);
    b_.Activate(Activation::kNone, a, a_in);
    b_.Gemm(a_in, *pair.down, low);
    b_.Activate(Activation::kTanh, low, low_in);
    b_.Gemm(low_in, *pair.up, delta);
    b_.AddNorm({.a = a, .b = delta, .norm = norm, .out = normed});
    return normed;
  };
  const Matrix k = expand(kappa_, kappa_prev_, w.maa_k, 0, w.key, w.ln_k);
  if (frequency_ != nullptr) b_.Rope(k, position_.device(), frequency_);
  b_.ScatterRows(k, tile_row_.device(), tiles.keys);
  const Matrix v = expand(n_, n_prev_, w.maa_v, 1, w.value, w.ln_v);
  b_.ScatterRows(v, tile_row_.device(), tiles.values);
}

void GoldCache::Expand(std::span<const ExpandTarget> targets, std::int64_t first,
                       std::int64_t last) {
  if (targets.empty()) return;
  GOLDFINCH_CHECK(static_cast<std::int64_t>(targets.size()) <= kMaxTargets);
  Decompress(targets);
  const auto count = static_cast<std::int64_t>(targets.size());
  const std::int64_t below = config_.num_recurrent();
  for (std::int64_t layer = first; layer < last; ++layer)
    ExpandLayer(*weights_.layers[static_cast<std::size_t>(below + layer)].gold, count,
                tiles_[static_cast<std::size_t>(layer)]);
}

}  // namespace goldfinch
