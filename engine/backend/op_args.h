// Arguments of the ops that take more than a few. Plain structs of device pointers:
// kernels of every instruction set include this, so nothing here may emit code.
#pragma once

#include <cstdint>

#include "engine/backend/matrix.h"

namespace goldfinch {

// Elements of a head, everywhere: models with heads of another size are refused when
// their config is read.
inline constexpr std::int32_t kHeadSize = 64;
// Elements of a head's recurrent state, [key, value].
inline constexpr std::int32_t kHeadState = kHeadSize * kHeadSize;
// Pairs of a head that rope turns, each by a frequency of its own.
inline constexpr std::int32_t kRopePairs = kHeadSize / 2;
// Of the products of attention's queries and keys: 1 / sqrt(kHeadSize).
inline constexpr float kScoreScale = 0.125f;
static_assert(kScoreScale * kScoreScale * kHeadSize == 1.0f);
// What a head's attention carries from call to call (AttendArgs::carry): the sums of its
// weighted values, then the maximum of its scores, then the sum of its weights.
inline constexpr std::int32_t kCarrySize = kHeadSize + 2;

// Scale and shift of a normalisation; `eps` is added to the variance. Where an op says
// that it may go without, a null weight means that it does.
struct NormWeights {
  const float* weight = nullptr;  // [cols]
  const float* bias = nullptr;    // [cols]
  float eps = 1e-5f;
};

// Which rows of a batch belong to which sequence: rows [begin[i], begin[i+1]) are
// consecutive tokens of the sequence in state slot slot[i].
struct RowSpans {
  std::int32_t count = 0;
  const std::int32_t* begin = nullptr;  // [count + 1]
  const std::int32_t* slot = nullptr;   // [count]
  // The slot that gets the state behind a span: its own, or another one, and then its own
  // stays as it is. No slot is one span's and the next of another. With blocks this is
  // `slot` itself.
  const std::int32_t* next_slot = nullptr;  // [count]
  // Rows of each span before its first block; null: there are no blocks. A block is
  // kPromptBlock tokens of a prompt, from a multiple of it on, all of them in this span.
  // They follow each other; behind the last come less than kPromptBlock rows.
  const std::int32_t* lead = nullptr;  // [count]
};

// Tokens of a prompt that a device may compute together, in an order of its own
// (Backend::prompt_grid).
inline constexpr std::int32_t kPromptBlock = 64;

// Token ids as a cache stores them: two bytes each where the vocabulary allows it.
struct TokenStore {
  void* data = nullptr;
  bool narrow = false;  // uint16, else int32
};

// What becomes of a product's float32 sums before they are stored.
enum class Finish : std::uint8_t {
  kStore,        // y = sum
  kTanh,         // y = tanh(sum)
  kReluSquared,  // y = relu(sum)^2
  kLerp,         // y = a + b * (bias + sum)
  kDecay,        // y = exp(-exp(bias + sum));  a *= 1 - y, where a is given
  kAdd,          // y += sum
  kGatedAdd,     // y += sigmoid(a) * sum
};

// kStore, kTanh, kReluSquared and kLerp store float32 or bf16; kDecay, kAdd and kGatedAdd
// float32. Operands are float32 and of y's shape.
struct Epilogue {
  Finish finish = Finish::kStore;
  // Sums start from y instead of zero. y is float32 and holds the sums of the inputs
  // before these, an even number of them. On the CPU the bits are those of one product
  // over all; a device may add the sum over these inputs as one number.
  bool resume = false;
  const float* bias = nullptr;  // [cols of y]
  Matrix a = {};
  Matrix b = {};
  Matrix copy = {};  // data null: none; kLerp also stores y here, rounded to its type
};

// A normalised row, how far its predecessor is from it, and mixes of the two:
//   cur = LN(x);  diff[i] = cur[i-1] - cur[i];  mixed[j] = cur + diff * mix[j]
// Before the first row of a span comes the state of its slot; the state behind it is the
// span's last cur.
struct NormShiftArgs {
  static constexpr int kMaxMixes = 2;
  Matrix x = {};
  NormWeights norm = {};
  Matrix state = {};  // [slots, cols]
  RowSpans spans = {};
  Matrix cur = {};   // data null: not stored
  Matrix diff = {};  // stored where cur is
  int num_mixes = 0;
  const float* mix[kMaxMixes] = {};  // [cols]
  Matrix mixed[kMaxMixes] = {};      // float32 or bf16
};

// Rows divided by their root mean square, and how far their predecessors are from them:
//   cur[i] = rms(in[index[i]]);  diff[i] = rms(in[previous[i]]) - cur[i]
//   rms(x) = x / (|x| / sqrt(cols) + 1e-8), and zero for a previous row of -1
struct RmsShiftArgs {
  static constexpr int kMaxInputs = 2;
  int num_inputs = 0;
  // Of one width, float32.
  Matrix in[kMaxInputs] = {};
  Matrix cur[kMaxInputs] = {}, diff[kMaxInputs] = {};  // [rows, cols]
  const std::int64_t* index = nullptr;                 // [rows]
  const std::int64_t* previous = nullptr;              // [rows]
};

// GOLD layers whose keys and values are made together.
inline constexpr int kMaxGoldLayers = 8;

// Mixes of rows and their predecessors, one behind the other:
//   out[j * rows + i] = cur[i] + diff[i] * mix[j], rounded to out's type
struct LerpArgs {
  static constexpr int kMaxMixes = kMaxGoldLayers;
  Matrix cur = {}, diff = {};  // [rows, cols]
  int num_mixes = 0;
  const float* mix[kMaxMixes] = {};  // [cols]
  Matrix out = {};                   // [num_mixes * rows, cols]
};

// Of each head, with keys j and values i (engine/kernels/cpu/wkv.cc):
//   y[i] = sum_j r[j] S[j, i]  [+ v[i] sum_j u[j] k[j] r[j]]
//   S[j, i] = w[j] S[j, i] + k[j] v[i]
// Rows of the spans' blocks may be computed in another order than all other rows, the
// same for every block.
struct WkvArgs {
  Matrix r = {}, k = {}, v = {}, w = {};  // [rows, heads * kHeadSize]
  const float* bonus = nullptr;           // u [heads, kHeadSize]; null: none
  Matrix state = {};                      // [slots, heads * kHeadState]
  RowSpans spans = {};
  std::int64_t heads = 0;
  Matrix y = {};  // [rows, heads * kHeadSize]
};

// out = norm(a + b) [* silu(gate)], over `groups` equal parts of a row.
struct AddNormArgs {
  Matrix a = {};
  Matrix b = {};  // data null: none
  NormWeights norm = {};
  std::int64_t groups = 1;
  Matrix gate = {};  // data null: none
  Matrix out = {};
};

// Most tokens of a page: kernels keep that many weights on their stack.
inline constexpr std::int64_t kMaxPageTokens = 256;

// Expanded keys and values of one layer, a tile a page. Where an element of a tile lies
// is the business of the kernels alone (StoreTiles, Attend).
struct KvTiles {
  void* data = nullptr;
  DType type = DType::kF32;  // compute type
  std::int64_t heads = 0;
  std::int64_t page_tokens = 0;  // at most kMaxPageTokens

  static constexpr std::int64_t kTokensPad = 16;
  // A list of tiles may be cut into several Attends where this many tiles end.
  static constexpr std::int64_t kCutTiles = 8;
  // Tokens that room is kept for.
  constexpr std::int64_t padded_tokens() const {
    return (page_tokens + kTokensPad - 1) / kTokensPad * kTokensPad;
  }
  // Elements of one head's keys in a tile, and of its values.
  constexpr std::int64_t head_elements() const { return kHeadSize * padded_tokens(); }
  std::int64_t tile_bytes() const { return 2 * heads * head_elements() * SizeOf(type); }
};

// Keys and values of tokens, normed, keys turned by rope, into the tiles of some layers:
// row i of a layer's k becomes token row[i] % page_tokens of tile row[i] / page_tokens,
// rounded to the tiles' type, and v likewise. Rows are distinct. What k and v hold
// afterwards is not defined.
struct StoreTilesArgs {
  struct Layer {
    Matrix k = {}, v = {};                 // [rows, A] float32
    NormWeights norm_k = {}, norm_v = {};  // both or none: stored as they are
    KvTiles tiles = {};
  };
  int num_layers = 0;
  Layer layer[kMaxGoldLayers] = {};        // rows and tiles of one shape
  const std::int64_t* row = nullptr;       // [rows]
  const std::int64_t* position = nullptr;  // [rows], of the tokens; with rope only
  const double* frequency = nullptr;       // [kRopePairs]; null: no rope
};

// Tiles that some rows of an Attend see, each as far as its position, and what they are
// read together for: rows `order[row_begin, row_end)`, entries [tile_begin, tile_end) of
// the lists of tiles. Each of these rows sees `first_chunk` chunks of KvTiles::kCutTiles
// tiles before. A device that takes so many rows and one chunk at once has work items for
// it, `first_item` and the next ones.
struct AttendRun {
  static constexpr std::int32_t kRowsAtOnce = 4;
  std::int32_t row_begin = 0, row_end = 0;
  std::int32_t tile_begin = 0, tile_end = 0;
  std::int32_t first_chunk = 0;
  std::int32_t first_item = 0;
};

// Causal attention of query rows over tiles, continuing earlier calls: tiles come in
// consecutive ascending positions and the running maximum, sum and weighted values are
// carried in `carry`. The tiles that a row sees are those of its runs, in the order of
// runs: every row is in one at least, a run's rows are all among those of the run that
// leads to it (engine/model/attend_runs.h). Each call's lists begin at a multiple of
// KvTiles::kCutTiles tiles of their sequence; any such cut of the tiles into calls gives
// the same bits, and so do any runs.
struct AttendArgs {
  Matrix q = {};  // [rows, A] float32
  KvTiles tiles = {};
  std::int64_t heads = 0;
  const std::int64_t* position = nullptr;       // [rows] of the query
  const std::int32_t* order = nullptr;          // [rows] each of them once
  const AttendRun* runs = nullptr;              // [*num_runs]
  const std::int32_t* num_runs = nullptr;       // where ops read it
  const std::int32_t* tile = nullptr;           // index into `tiles`
  const std::int64_t* tile_position = nullptr;  // position of the tile's first token
  // A row sees its tiles in chunks of KvTiles::kCutTiles, as far as its position: those
  // of row i are numbers [chunk_begin[i], chunk_begin[i + 1]), [rows + 1]. The CPU does
  // not read this.
  const std::int32_t* chunk_begin = nullptr;
  std::int64_t num_chunks = 0;  // of all rows, known to the host
  Matrix carry = {};            // [rows, heads * kCarrySize]
  bool first = true;            // starts the carry afresh
};

}  // namespace goldfinch
