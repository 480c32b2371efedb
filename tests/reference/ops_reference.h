// Every op of engine/backend/backend.h again: in double, one obvious loop each, with
// nothing to go wrong. The backends are tested against these.
//
// Given magnitudes instead of values (see Abs) the sums become sums of magnitudes,
// which is what rounding errors are proportional to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/backend/op_args.h"

namespace goldfinch::reference {

// A matrix of doubles, [rows, cols].
class Grid {
 public:
  Grid() = default;
  Grid(std::int64_t rows, std::int64_t cols, double value = 0.0)
      : rows_(rows), cols_(cols), values_(static_cast<std::size_t>(rows * cols), value) {}

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  double& operator()(std::int64_t row, std::int64_t col) {
    return values_[static_cast<std::size_t>(row * cols_ + col)];
  }
  double operator()(std::int64_t row, std::int64_t col) const {
    return values_[static_cast<std::size_t>(row * cols_ + col)];
  }

  Grid Rows(std::int64_t begin, std::int64_t count) const;

 private:
  std::int64_t rows_ = 0, cols_ = 0;
  std::vector<double> values_;
};

// f of the elements at the same place of grids of one shape.
template <typename F, typename... Grids>
Grid Each(const F& f, const Grid& first, const Grids&... more) {
  Grid out(first.rows(), first.cols());
  for (std::int64_t i = 0; i < first.rows(); ++i)
    for (std::int64_t j = 0; j < first.cols(); ++j)
      out(i, j) = f(first(i, j), more(i, j)...);
  return out;
}

Grid Abs(const Grid& x);

// Weight and bias are [1, cols].
struct Norm {
  Grid weight;
  Grid bias;
  double eps = 1e-5;
};

// As RowSpans.
struct Spans {
  std::vector<std::int32_t> begin;
  std::vector<std::int32_t> slot;
  std::vector<std::int32_t> next_slot = {};  // empty: slot
};

// y = x w^T.
Grid Gemm(const Grid& x, const Grid& w);

// LayerNorm over each of `groups` equal parts of a row.
Grid LayerNorm(const Grid& x, const Norm& norm, std::int64_t groups = 1);
Grid EmbedNorm(const std::vector<std::int32_t>& tokens, const Grid& table,
               const Norm& norm);
// {cur, prev}; state is [slots, cols] and becomes the last row of each span.
std::pair<Grid, Grid> NormShift(const Grid& x, const Norm& norm, const Spans& spans,
                                Grid& state);
void NormToState(const Grid& x, const Norm& norm, const std::vector<std::int32_t>& rows,
                 const std::vector<std::int32_t>& slots, Grid& state);
// `b` and `gate` may be null.
Grid AddNorm(const Grid& a, const Grid* b, const Norm& norm, std::int64_t groups,
             const Grid* gate);
Grid RmsNorm(const Grid& x);
// As RmsShiftArgs, of one input: {cur, prev}.
std::pair<Grid, Grid> RmsShift(const Grid& in, const std::vector<std::int64_t>& index,
                               const std::vector<std::int64_t>& previous);

// mix is [1, cols].
Grid Lerp(const Grid& cur, const Grid& diff, const Grid& mix);
Grid Sigmoid(const Grid& x);

// As Epilogue; bias is [1, cols], y what was there before. Grids a finish does not read
// may be empty.
struct FinishOperands {
  Grid bias = {}, a = {}, b = {}, y = {};
};
Grid Apply(Finish finish, const Grid& sums, const FinishOperands& with);

Grid GatherRows(const Grid& in, const std::vector<std::int64_t>& index);
void ScatterRows(const Grid& in, const std::vector<std::int64_t>& index, Grid& out);

// bonus is [1, heads * 64] or null; state is [slots, heads * 64 keys * 64 values].
struct WkvInputs {
  Grid r, k, v, w;
  const Grid* bonus = nullptr;
  Spans spans;
};
Grid Wkv(const WkvInputs& in, Grid& state);

Grid Rope(const Grid& x, const std::vector<std::int64_t>& position,
          const std::vector<double>& frequency);

// As AttendArgs, over all tiles at once. Tiles of list s are entries [tile_begin[s],
// tile_begin[s + 1]); row i sees list span[i].
struct Attention {
  Grid q, keys, values;
  std::int64_t page_tokens = 0;
  std::vector<std::int64_t> position;
  std::vector<std::int32_t> span;
  std::vector<std::int32_t> tile_begin;
  std::vector<std::int32_t> tile;
  std::vector<std::int64_t> tile_position;
};
// The rows of keys and values that a query row sees.
std::vector<std::int64_t> SeenTokens(const Attention& in, std::int64_t row);
// q . k / 8 of one head, for each of `tokens`.
std::vector<double> AttentionScores(const Attention& in, std::int64_t row,
                                    std::int64_t head,
                                    const std::vector<std::int64_t>& tokens);
Grid Attend(const Attention& in);

// log softmax(row)[target], and whether target is the first highest.
std::pair<double, bool> Score(const Grid& logits, std::int64_t row, std::int64_t target);

}  // namespace goldfinch::reference
