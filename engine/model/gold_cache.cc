#include "engine/model/gold_cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kScaleBytes = sizeof(std::uint16_t);

std::int64_t TokenBytes(const ModelConfig& config) {
  return config.vocab_size <= 65536 ? 2 : 4;
}

// memcpy of one key, of which there are too many for a call each.
inline void CopyKey(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t kPiece = 16;
  for (; bytes >= kPiece; to += kPiece, from += kPiece, bytes -= kPiece)
    std::memcpy(to, from, kPiece);
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace

GoldCache::GoldCache(DeviceArena& arena, StepInputs& inputs, const ModelConfig& config,
                     const ModelWeights& weights, DType type, const GoldCacheShape& shape,
                     std::int64_t max_mix_width)
    : b_(arena.backend()),
      config_(config),
      weights_(weights),
      shape_(shape),
      inputs_(inputs) {
  GOLDFINCH_CHECK(shape.max_targets >= kMaxPageTokens);
  const std::int64_t d = config.n_embd, c = config.compressed_dim();
  for (std::int32_t layer = 0; layer < config.num_gold(); ++layer) {
    KvTiles tiles{
        .type = type, .heads = config.num_heads(), .page_tokens = shape.page_tokens};
    tiles.data = arena.TakeBytes(shape.num_tiles * tiles.tile_bytes());
    tiles_.push_back(tiles);
  }
  if (config.rope.has_value()) {
    double frequency[kRopePairs];
    for (std::int64_t i = 0; i < kRopePairs; ++i)
      frequency[i] = std::pow(config.rope->base * config.rope->rebase,
                              -2.0 * static_cast<double>(i) / config.head_size) /
                     config.rope->rescale;
    frequency_ = static_cast<double*>(arena.TakeBytes(sizeof frequency));
    b_.CopyToDevice(frequency_, frequency, sizeof frequency);
  }

  const std::int64_t targets = shape.max_targets, sources = 2 * targets;
  if (b_.copies_wait()) {
    const std::int64_t rows = StagedPages() * shape.page_tokens;
    page_ = {inputs, StagedPages()};
    staged_.tokens = arena.TakeBytes(rows * TokenBytes(config));
    staged_.keys = arena.TakeBytes(rows * c * SizeOf(shape.storage));
    if (shape.storage == DType::kI8)
      staged_.scales = static_cast<std::uint16_t*>(arena.TakeBytes(rows * kScaleBytes));
  }
  source_row_ = {inputs, sources};
  source_tokens_ = static_cast<std::int32_t*>(
      arena.TakeBytes(sources * static_cast<std::int64_t>(sizeof(std::int32_t))));
  for (Matrix* m : {&embedded_, &decompressed_}) *m = arena.Take(sources, d, DType::kF32);
  embedded_in_ = arena.TakeInput(sources, d, type);
  key_part_ = arena.TakeInput(sources, c, type);
  current_ = {inputs, targets};
  previous_ = {inputs, targets};
  position_ = {inputs, targets};
  tile_row_ = {inputs, targets};
  for (Matrix* m : {&n_, &n_diff_, &kappa_, &kappa_diff_, &key_, &value_})
    *m = arena.Take(targets, d, DType::kF32);
  for (Matrix* m : {&mixed_, &key_in_, &value_in_})
    *m = arena.TakeInput(targets, d, type);
  for (Matrix* m : {&mix_in_, &key_low_, &value_low_})
    *m = arena.TakeInput(targets, max_mix_width, type);
  if (shape.vocab_table) {
    vocab_table_ = arena.Take(config.vocab_size, d, DType::kF32);
    FillVocabTable();
  }
}

void GoldCache::TakePages(DeviceArena& arena, std::int64_t num_pages) {
  num_pages_ = num_pages;
  const std::int64_t rows = num_pages * shape_.page_tokens + shape_.spare_rows;
  tokens_ = {arena.TakeBytes(rows * TokenBytes(config_)), TokenBytes(config_) == 2};
  keys_ = arena.Take(rows, config_.compressed_dim(), shape_.storage);
  if (shape_.storage == DType::kI8)
    scales_ = static_cast<std::uint16_t*>(arena.TakeBytes(rows * kScaleBytes));
}

void GoldCache::Append(const Matrix& x, const std::int32_t* tokens,
                       const std::int64_t* index, const Matrix& scratch) {
  b_.Convert(x, scratch);
  for (std::int64_t first = 0; first < x.rows; first += shape_.max_targets) {
    const std::int64_t count = std::min(shape_.max_targets, x.rows - first);
    const Matrix c = key_.Rows(count).Cols(0, keys_.cols);
    b_.Gemm({.x = scratch.RowsFrom(first, count), .w = weights_.compress.get(), .y = c});
    if (scales_ != nullptr)
      b_.ScatterQuantized(c, index + first, keys_, scales_);
    else
      b_.ScatterRows(c, index + first, keys_);
  }
  b_.ScatterTokens(tokens, index, x.rows, tokens_);
}

std::int64_t GoldCache::tile_bytes() const {
  std::int64_t bytes = 0;
  for (const KvTiles& tiles : tiles_) bytes += shape_.num_tiles * tiles.tile_bytes();
  return bytes;
}

std::int64_t GoldCache::table_bytes() const {
  return vocab_table_.rows * vocab_table_.cols * SizeOf(vocab_table_.type);
}

std::int64_t GoldCache::stored_key_bytes() const {
  return RowBytes(config_, shape_.storage) - TokenBytes(config_);
}

std::int64_t GoldCache::RowBytes(const ModelConfig& config, DType storage) {
  return TokenBytes(config) + config.compressed_dim() * SizeOf(storage) +
         (storage == DType::kI8 ? kScaleBytes : 0);
}

void GoldCache::Write(const Rows& rows, std::span<const TokenId> tokens,
                      std::span<const std::byte> keys) {
  const std::size_t count = tokens.size();
  const auto key_bytes = static_cast<std::size_t>(keys_.cols * SizeOf(keys_.type));
  const auto stored_bytes = static_cast<std::size_t>(stored_key_bytes());
  GOLDFINCH_CHECK(keys.size() == count * stored_bytes);
  if (tokens_.narrow) {
    host_tokens_.resize(count);
    std::transform(tokens.begin(), tokens.end(), host_tokens_.begin(),
                   [](TokenId token) { return static_cast<std::uint16_t>(token); });
  }
  const auto copy = [this](void* to, const void* from, std::size_t bytes) {
    b_.CopyToDevice(to, from, static_cast<std::int64_t>(bytes));
  };
  copy(rows.tokens,
       tokens_.narrow ? static_cast<const void*>(host_tokens_.data()) : tokens.data(),
       count * static_cast<std::size_t>(TokenBytes(config_)));
  if (rows.scales == nullptr) {
    copy(rows.keys, keys.data(), keys.size());
    return;
  }
  ForQuantized(rows, count, [&](std::size_t first, std::size_t some, const Rows& part) {
    const std::byte* from = keys.data() + first * stored_bytes;
    std::byte* key = host_keys_.data();
    for (std::size_t i = 0; i < some; ++i, from += stored_bytes, key += key_bytes) {
      CopyKey(key, from, key_bytes);
      std::memcpy(&host_scales_[i], from + key_bytes, kScaleBytes);
    }
    copy(part.keys, host_keys_.data(), some * key_bytes);
    copy(part.scales, host_scales_.data(), some * kScaleBytes);
  });
}

void GoldCache::Read(const Rows& rows, std::span<TokenId> tokens,
                     std::span<std::byte> keys) {
  const std::size_t count = tokens.size();
  const auto key_bytes = static_cast<std::size_t>(keys_.cols * SizeOf(keys_.type));
  const auto stored_bytes = static_cast<std::size_t>(stored_key_bytes());
  GOLDFINCH_CHECK(keys.size() == count * stored_bytes);
  const auto copy = [this](void* to, const void* from, std::size_t bytes) {
    b_.CopyToHost(to, from, static_cast<std::int64_t>(bytes));
  };
  if (tokens_.narrow) host_tokens_.resize(count);
  copy(tokens_.narrow ? static_cast<void*>(host_tokens_.data()) : tokens.data(),
       rows.tokens, count * static_cast<std::size_t>(TokenBytes(config_)));
  if (tokens_.narrow) std::ranges::copy(host_tokens_, tokens.begin());
  if (rows.scales == nullptr) {
    copy(keys.data(), rows.keys, count * key_bytes);
    return;
  }
  ForQuantized(rows, count, [&](std::size_t first, std::size_t some, const Rows& part) {
    copy(host_keys_.data(), part.keys, some * key_bytes);
    copy(host_scales_.data(), part.scales, some * kScaleBytes);
    const std::byte* key = host_keys_.data();
    std::byte* to = keys.data() + first * stored_bytes;
    for (std::size_t i = 0; i < some; ++i, to += stored_bytes, key += key_bytes) {
      CopyKey(to, key, key_bytes);
      std::memcpy(to + key_bytes, &host_scales_[i], kScaleBytes);
    }
  });
}

template <typename Visit>
void GoldCache::ForQuantized(const Rows& rows, std::size_t count, const Visit& visit) {
  // Few where a copy costs nothing by itself: they stay in the first level cache.
  const auto at_once = static_cast<std::size_t>(b_.copies_wait() ? kStagedTokens : 64);
  const auto key_bytes = static_cast<std::size_t>(keys_.cols * SizeOf(keys_.type));
  host_scales_.resize(std::min(at_once, count));
  host_keys_.resize(std::min(at_once, count) * key_bytes);
  for (std::size_t first = 0; first < count; first += at_once)
    visit(first, std::min(at_once, count - first),
          Rows{.tokens = nullptr,
               .keys = static_cast<std::byte*>(rows.keys) + first * key_bytes,
               .scales = rows.scales + first});
}

template <typename Visit>
void GoldCache::ForPages(std::span<const std::int32_t> pages, std::int64_t count,
                         const Visit& visit) {
  const std::int64_t page_tokens = shape_.page_tokens;
  for (std::int64_t first = 0; first < count;) {
    page_.Clear();
    std::int64_t rows = 0;
    for (; first + rows < count && page_.size() < StagedPages(); rows += page_tokens)
      page_.Push(pages[static_cast<std::size_t>((first + rows) / page_tokens)]);
    rows = std::min(rows, count - first);
    page_.Stage();
    inputs_.Upload();
    visit(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    first += rows;
  }
}

template <typename Move>
void GoldCache::MovePages(const Move& move) const {
  const std::int64_t rows = shape_.page_tokens;
  move(tokens_.data, rows * TokenBytes(config_), staged_.tokens);
  move(keys_.data, rows * keys_.cols * SizeOf(keys_.type), staged_.keys);
  if (scales_ != nullptr) move(scales_, rows * kScaleBytes, staged_.scales);
}

void GoldCache::WritePages(std::span<const std::int32_t> pages,
                           std::span<const TokenId> tokens,
                           std::span<const std::byte> keys) {
  const auto stored_bytes = static_cast<std::size_t>(stored_key_bytes());
  ForPages(pages, static_cast<std::int64_t>(tokens.size()),
           [&](std::size_t first, std::size_t count) {
             Write(staged_, tokens.subspan(first, count),
                   keys.subspan(first * stored_bytes, count * stored_bytes));
             MovePages([this](void* all, std::int64_t bytes, void* staged) {
               b_.ScatterBlocks(staged, bytes, page_.device(), page_.size(), all);
             });
           });
}

void GoldCache::ReadPages(std::span<const std::int32_t> pages, std::span<TokenId> tokens,
                          std::span<std::byte> keys) {
  const auto stored_bytes = static_cast<std::size_t>(stored_key_bytes());
  ForPages(pages, static_cast<std::int64_t>(tokens.size()),
           [&](std::size_t first, std::size_t count) {
             MovePages([this](void* all, std::int64_t bytes, void* staged) {
               b_.GatherBlocks(all, bytes, page_.device(), page_.size(), staged);
             });
             Read(staged_, tokens.subspan(first, count),
                  keys.subspan(first * stored_bytes, count * stored_bytes));
           });
}

void GoldCache::Embed(const Matrix& e) {
  b_.EmbedNorm(source_tokens_, weights_.embedding, weights_.ln0, e,
               embedded_in_.Rows(e.rows));
}

void GoldCache::EmbeddingPart(const Matrix& out) {
  b_.Gemm({.x = embedded_in_.Rows(out.rows),
           .w = weights_.decompress_embedding.get(),
           .y = out});
}

void GoldCache::FillVocabTable() {
  std::vector<std::int32_t> tokens;
  for (std::int64_t first = 0; first < vocab_table_.rows; first += shape_.max_targets) {
    const std::int64_t count = std::min(shape_.max_targets, vocab_table_.rows - first);
    tokens.resize(static_cast<std::size_t>(count));
    std::iota(tokens.begin(), tokens.end(), static_cast<std::int32_t>(first));
    b_.CopyToDevice(source_tokens_, tokens.data(),
                    count * static_cast<std::int64_t>(sizeof(std::int32_t)));
    Embed(embedded_.Rows(count));
    EmbeddingPart(vocab_table_.RowsFrom(first, count));
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

void GoldCache::StageTargets(std::span<const ExpandTarget> targets) {
  GOLDFINCH_CHECK(static_cast<std::int64_t>(targets.size()) <= shape_.max_targets);
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
  source_row_.Stage();
  current_.Stage();
  previous_.Stage();
  position_.Stage();
  tile_row_.Stage();
}

void GoldCache::Decompress() {
  const std::int64_t sources = source_row_.size();
  const Matrix e = embedded_.Rows(sources), key = decompressed_.Rows(sources);
  const Matrix c = key_part_.Rows(sources);
  b_.GatherTokens(tokens_, source_row_.device(), sources, source_tokens_);
  Embed(e);
  if (scales_ != nullptr)
    b_.GatherQuantized(keys_, scales_, source_row_.device(), c);
  else
    b_.GatherRows(keys_, source_row_.device(), c);
  if (vocab_table_.data != nullptr)
    b_.GatherTokenRows(vocab_table_, source_tokens_, key);
  else
    EmbeddingPart(key);
  b_.Gemm({.x = c,
           .w = weights_.decompress_key.get(),
           .y = key,
           .epilogue = {.resume = true}});
  const std::int64_t count = current_.size();
  b_.RmsShift({.num_inputs = 2,
               .in = {e, key},
               .cur = {n_.Rows(count), kappa_.Rows(count)},
               .diff = {n_diff_.Rows(count), kappa_diff_.Rows(count)},
               .index = current_.device(),
               .previous = previous_.device()});
}

void GoldCache::ExpandLayers(std::int64_t first, std::int64_t last, std::int64_t count) {
  const auto gold = [this](std::int64_t layer) -> const GoldWeights& {
    const std::int64_t index = config_.num_recurrent() + layer;
    return *weights_.layers[static_cast<std::size_t>(index)].gold;
  };
  // Each layer has `count` rows of every buffer.
  const auto rows = [&](const Matrix& m, std::int64_t layer) {
    return m.RowsFrom((layer - first) * count, count);
  };
  const Matrix n = n_.Rows(count), n_diff = n_diff_.Rows(count);
  const Matrix kappa = kappa_.Rows(count), kappa_diff = kappa_diff_.Rows(count);
  const Epilogue tanh = {.finish = Finish::kTanh}, add = {.finish = Finish::kAdd};
  // z = tanh(lerp(n, n_prev, maa_v_cache) kv_w1)
  // a = lerp(x, x_prev, maa + z kv_w2);  LN(a + tanh(a w1) w2), x being kappa or n
  LerpArgs mixes = {.cur = n,
                    .diff = n_diff,
                    .num_mixes = static_cast<int>(last - first),
                    .out = mixed_.Rows((last - first) * count)};
  StoreTilesArgs store = {.num_layers = mixes.num_mixes,
                          .row = tile_row_.device(),
                          .position = position_.device(),
                          .frequency = frequency_};
  Products down, mix, low, up;
  for (std::int64_t i = first; i < last; ++i) {
    const GoldWeights& w = gold(i);
    const std::int64_t width = w.kv_up[0]->in();
    const Matrix z = rows(mix_in_, i).Cols(0, 2 * width);
    const Matrix key_low = rows(key_low_, i).Cols(0, w.key.down->out());
    const Matrix value_low = rows(value_low_, i).Cols(0, w.value.down->out());
    mixes.mix[i - first] = w.maa_v_cache;
    down.Add({.x = rows(mixed_, i), .w = w.kv_down.get(), .y = z, .epilogue = tanh});
    mix.Add({.x = z.Cols(0, width),
             .w = w.kv_up[0].get(),
             .y = rows(key_, i),
             .epilogue = {.finish = Finish::kLerp,
                          .bias = w.maa_k,
                          .a = kappa,
                          .b = kappa_diff,
                          .copy = rows(key_in_, i)}});
    mix.Add({.x = z.Cols(width, width),
             .w = w.kv_up[1].get(),
             .y = rows(value_, i),
             .epilogue = {.finish = Finish::kLerp,
                          .bias = w.maa_v,
                          .a = n,
                          .b = n_diff,
                          .copy = rows(value_in_, i)}});
    low.Add(
        {.x = rows(key_in_, i), .w = w.key.down.get(), .y = key_low, .epilogue = tanh});
    low.Add({.x = rows(value_in_, i),
             .w = w.value.down.get(),
             .y = value_low,
             .epilogue = tanh});
    up.Add({.x = key_low, .w = w.key.up.get(), .y = rows(key_, i), .epilogue = add});
    up.Add(
        {.x = value_low, .w = w.value.up.get(), .y = rows(value_, i), .epilogue = add});
    store.layer[i - first] = {.k = rows(key_, i),
                              .v = rows(value_, i),
                              .norm_k = w.ln_k,
                              .norm_v = w.ln_v,
                              .tiles = tiles_[static_cast<std::size_t>(i)]};
  }
  b_.Lerp(mixes);
  for (const Products* products : {&down, &mix, &low, &up}) b_.Gemm(products->get());
  b_.StoreTiles(store);
}

void GoldCache::Expand(std::int64_t first, std::int64_t last) {
  const std::int64_t count = num_targets();
  if (count == 0) return;
  Decompress();
  // Few targets leave room for several layers at once.
  const std::int64_t group =
      std::clamp<std::int64_t>(shape_.max_targets / count, 1, kMaxLayers);
  for (std::int64_t layer = first; layer < last; layer += group)
    ExpandLayers(layer, std::min(layer + group, last), count);
}

}  // namespace goldfinch
