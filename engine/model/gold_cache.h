// The cache of a GoldFinch model: per token its id and its compressed key, in pages; and
// the way from there to the keys and values of the GOLD layers.
//
// Nothing else is kept per token that cannot be dropped: a key of a layer is a function
// of (s_t, s_{t-1}, c_t, c_{t-1}), a value of (s_t, s_{t-1}) (docs/model.md, GOLD time
// mix). Expanded keys and values go to tiles of one page each; which page has which tile
// is decided by gold_attention.h.
//
// Threads: one at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/model/layers.h"
#include "engine/model/weights.h"
#include "engine/model/workspace.h"

namespace goldfinch {

struct GoldCacheShape {
  DType storage = DType::kBf16;  // of compressed keys: the compute type or kI8
  std::int64_t page_tokens = 0;
  std::int64_t num_tiles = 0;    // per layer
  std::int64_t max_targets = 0;  // of one Expand; at least kMaxPageTokens
  bool vocab_table = false;      // keep every token's part of a decompressed key
  std::int64_t spare_rows = 0;   // behind the pages, for tokens of no sequence
};

// One token whose keys and values are wanted.
struct ExpandTarget {
  std::int64_t row = 0;            // its row in the cache: page * page_tokens + offset
  std::int64_t previous_row = -1;  // of the token before it; -1: it is the first
  std::int64_t position = 0;
  std::int64_t tile_row = 0;  // where to: tile * page_tokens + offset
};

class GoldCache {
 public:
  GoldCache(DeviceArena& arena, StepInputs& inputs, const ModelConfig& config,
            const ModelWeights& weights, DType type, const GoldCacheShape& shape,
            std::int64_t max_mix_width);

  // Takes the memory of the pages: once, before anything is stored. Last of all, so that
  // it may be what the rest has left.
  void TakePages(DeviceArena& arena, std::int64_t num_pages);

  const GoldCacheShape& shape() const { return shape_; }

  // Stores tokens[i] and the compressed key of x[i], the recurrent layers' output, at
  // row index[i]. Device arrays. `scratch` is [rows, D] in the compute type.
  void Append(const Matrix& x, const std::int32_t* tokens, const std::int64_t* index,
              const Matrix& scratch);

  // Up to max_targets tokens that the next Expand is about, which wants an upload of the
  // step's inputs in between.
  void StageTargets(std::span<const ExpandTarget> targets);
  std::int64_t num_targets() const { return current_.size(); }
  // Rows read for them: theirs and their predecessors', one that follows its predecessor
  // among the targets sharing it. So twice as many as targets of different sequences that
  // each have a predecessor.
  std::int64_t num_sources() const { return source_row_.size(); }

  // Writes keys and values of the staged tokens to the tiles of GOLD layers
  // [first, last), counted from the first GOLD layer.
  void Expand(std::int64_t first, std::int64_t last);

  // The first of the spare rows.
  std::int64_t spare_row() const { return num_pages_ * shape_.page_tokens; }

  // Rope frequencies in device memory; null without rope.
  const double* frequency() const { return frequency_; }

  const KvTiles& tiles(std::int64_t gold_layer) const {
    return tiles_[static_cast<std::size_t>(gold_layer)];
  }

  // Device memory of the pages, of the tiles, and of the table of the vocabulary; of the
  // spare rows.
  std::int64_t page_bytes() const {
    return num_pages_ * shape_.page_tokens * row_bytes();
  }
  std::int64_t tile_bytes() const;
  std::int64_t table_bytes() const;
  std::int64_t spare_bytes() const { return shape_.spare_rows * row_bytes(); }
  // Bytes of the cache for one token.
  std::int64_t row_bytes() const { return RowBytes(config_, shape_.storage); }
  static std::int64_t RowBytes(const ModelConfig& config, DType storage);

  // Host tokens and keys to and from consecutive rows of one page. A key is D/R elements
  // of the storage type, then, in int8, its scale: stored_key_bytes() in all.
  void WriteRows(std::int64_t row, std::span<const TokenId> tokens,
                 std::span<const std::byte> keys) {
    Write(RowsAt(row), tokens, keys);
  }
  void ReadRows(std::int64_t row, std::span<TokenId> tokens, std::span<std::byte> keys) {
    Read(RowsAt(row), tokens, keys);
  }
  // The same of the first rows of these pages, one page after the other, in few copies;
  // what WritePages leaves behind them on the last page is not defined. Only where the
  // backend's copies wait.
  void WritePages(std::span<const std::int32_t> pages, std::span<const TokenId> tokens,
                  std::span<const std::byte> keys);
  void ReadPages(std::span<const std::int32_t> pages, std::span<TokenId> tokens,
                 std::span<std::byte> keys);
  std::int64_t stored_key_bytes() const;

  // Copies the rows of one page, for a branch that will write to its own copy.
  void CopyPage(std::int32_t from, std::int32_t to);

 private:
  // Consecutive rows in device memory, of the pages or on their way.
  struct Rows {
    void* tokens = nullptr;
    void* keys = nullptr;
    std::uint16_t* scales = nullptr;  // int8 keys only
  };
  Rows RowsAt(std::int64_t row) const {
    return {TokenAt(row), keys_.RowsFrom(row, 0).data,
            scales_ == nullptr ? nullptr : scales_ + row};
  }
  void Write(const Rows& rows, std::span<const TokenId> tokens,
             std::span<const std::byte> keys);
  void Read(const Rows& rows, std::span<TokenId> tokens, std::span<std::byte> keys);
  // In int8, where keys and scales lie apart on the device and together on the host:
  // calls visit(first, count, part) for some of the rows at a time, with room for as many
  // in host_keys_ and host_scales_.
  template <typename Visit>
  void ForQuantized(const Rows& rows, std::size_t count, const Visit& visit);
  // Calls visit(first, count) for these first `count` tokens of the pages, some pages at
  // a time, whose numbers page_ then holds.
  template <typename Visit>
  void ForPages(std::span<const std::int32_t> pages, std::int64_t count,
                const Visit& visit);
  // Calls move(all pages of an array, bytes of a page, where it is staged).
  template <typename Move>
  void MovePages(const Move& move) const;
  // Pages that are on their way at once.
  static constexpr std::int64_t kStagedTokens = 16384;
  std::int64_t StagedPages() const {
    return std::max<std::int64_t>(1, kStagedTokens / shape_.page_tokens);
  }

  // e = LN(embedding) of the first rows of source_tokens_, and embedded_in_ from it.
  void Embed(const Matrix& e);
  // The part of decompressed keys that embedded_in_ makes.
  void EmbeddingPart(const Matrix& out);
  void FillVocabTable();
  void* TokenAt(std::int64_t row) const;
  // e, c and from them what kappa is the rms of, of every distinct token among the
  // targets and their predecessors; then n = rms(e) and kappa of each target, and the way
  // to its predecessor's.
  void Decompress();
  // Keys and values of GOLD layers [first, last), at most kMaxLayers, for `count`
  // targets; (last - first) * count is at most max_targets.
  void ExpandLayers(std::int64_t first, std::int64_t last, std::int64_t count);

  // Two products of each go into one Gemm.
  static constexpr std::int64_t kMaxLayers = kMaxGoldLayers;
  static_assert(2 * kMaxLayers <= static_cast<std::int64_t>(Backend::kMaxProducts));
  // Products of one Gemm.
  class Products {
   public:
    void Add(const Backend::Product& product) { products_[count_++] = product; }
    std::span<const Backend::Product> get() const {
      return std::span(products_).first(count_);
    }

   private:
    std::array<Backend::Product, Backend::kMaxProducts> products_;
    std::size_t count_ = 0;
  };

  Backend& b_;
  const ModelConfig& config_;
  const ModelWeights& weights_;
  const GoldCacheShape shape_;
  std::int64_t num_pages_ = 0;

  // Rows are pages * page_tokens, and the spare ones.
  TokenStore tokens_;                // [rows]
  Matrix keys_;                      // [rows, D/R]
  std::uint16_t* scales_ = nullptr;  // [rows] bf16; int8 keys only
  std::vector<KvTiles> tiles_;       // one a GOLD layer
  double* frequency_ = nullptr;      // rope, [kRopePairs]

  // Of rows on their way between host and device.
  std::vector<std::uint16_t> host_tokens_, host_scales_;
  std::vector<std::byte> host_keys_;  // in int8
  // Pages on their way, where copies wait.
  StepInputs& inputs_;
  StepArray<std::int64_t> page_;
  Rows staged_;

  // Sources: rows read by one Expand, see num_sources.
  StepArray<std::int64_t> source_row_;
  std::int32_t* source_tokens_ = nullptr;
  Matrix embedded_, decompressed_;  // e and [e, c] w_kv_cache_b^T: [sources, D]
  Matrix embedded_in_,
      key_part_;  // e and c: [sources, D] and [sources, D/R] compute type
  // A token's part of its decompressed key, e w_kv_cache_b[:, :D]^T: [V, D] float32, data
  // null without a table. The rest is added to it as it would be in one product.
  Matrix vocab_table_;
  // Targets.
  StepArray<std::int64_t> current_, previous_;  // rows among the sources
  StepArray<std::int64_t> position_, tile_row_;
  Matrix n_, n_diff_, kappa_, kappa_diff_;  // [targets, D]
  // Of several layers, one behind the other.
  Matrix key_, value_;                   // [targets, D]
  Matrix mixed_, key_in_, value_in_;     // [targets, D] compute type
  Matrix mix_in_, key_low_, value_low_;  // [targets, width] compute type
};

}  // namespace goldfinch
