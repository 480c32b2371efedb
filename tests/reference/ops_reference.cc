#include "tests/reference/ops_reference.h"

#include <algorithm>
#include <cmath>

namespace goldfinch::reference {
namespace {

constexpr std::int64_t kHead = 64;

template <typename T>
T At(const std::vector<T>& values, std::int64_t i) {
  return values[static_cast<std::size_t>(i)];
}

template <typename T>
std::int64_t Size(const std::vector<T>& values) {
  return static_cast<std::int64_t>(values.size());
}

double SigmoidOf(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// States begin in the slots where they end; which these are.
const std::vector<std::int32_t>& MoveStates(const Spans& spans, Grid& state) {
  if (spans.next_slot.empty()) return spans.slot;
  for (std::int64_t s = 0; s < Size(spans.slot); ++s)
    for (std::int64_t j = 0; j < state.cols(); ++j)
      state(At(spans.next_slot, s), j) = state(At(spans.slot, s), j);
  return spans.next_slot;
}

}  // namespace

Grid Grid::Rows(std::int64_t begin, std::int64_t count) const {
  Grid out(count, cols_);
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < cols_; ++j) out(i, j) = (*this)(begin + i, j);
  return out;
}

Grid Abs(const Grid& x) {
  return Each([](double v) { return std::abs(v); }, x);
}

Grid Gemm(const Grid& x, const Grid& w) {
  Grid y(x.rows(), w.rows());
  for (std::int64_t i = 0; i < x.rows(); ++i)
    for (std::int64_t n = 0; n < w.rows(); ++n)
      for (std::int64_t k = 0; k < x.cols(); ++k) y(i, n) += x(i, k) * w(n, k);
  return y;
}

Grid LayerNorm(const Grid& x, const Norm& norm, std::int64_t groups) {
  Grid out(x.rows(), x.cols());
  const std::int64_t width = x.cols() / groups;
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    for (std::int64_t first = 0; first < x.cols(); first += width) {
      const double n = static_cast<double>(width);
      double mean = 0.0, var = 0.0;
      for (std::int64_t j = first; j < first + width; ++j) mean += x(i, j) / n;
      for (std::int64_t j = first; j < first + width; ++j)
        var += (x(i, j) - mean) * (x(i, j) - mean) / n;
      for (std::int64_t j = first; j < first + width; ++j)
        out(i, j) = (x(i, j) - mean) / std::sqrt(var + norm.eps) * norm.weight(0, j) +
                    norm.bias(0, j);
    }
  }
  return out;
}

Grid EmbedNorm(const std::vector<std::int32_t>& tokens, const Grid& table,
               const Norm& norm) {
  return LayerNorm(GatherRows(table, {tokens.begin(), tokens.end()}), norm);
}

std::pair<Grid, Grid> NormShift(const Grid& x, const Norm& norm, const Spans& spans,
                                Grid& state) {
  const Grid cur = LayerNorm(x, norm);
  Grid prev(x.rows(), x.cols());
  const std::vector<std::int32_t>& slots = MoveStates(spans, state);
  for (std::int64_t s = 0; s < Size(spans.slot); ++s) {
    for (std::int64_t i = At(spans.begin, s); i < At(spans.begin, s + 1); ++i) {
      for (std::int64_t j = 0; j < x.cols(); ++j) {
        prev(i, j) = state(At(slots, s), j);
        state(At(slots, s), j) = cur(i, j);
      }
    }
  }
  return {cur, prev};
}

void NormToState(const Grid& x, const Norm& norm, const std::vector<std::int32_t>& rows,
                 const std::vector<std::int32_t>& slots, Grid& state) {
  const Grid normed = LayerNorm(x, norm);
  for (std::int64_t i = 0; i < Size(rows); ++i)
    for (std::int64_t j = 0; j < x.cols(); ++j)
      state(At(slots, i), j) = normed(At(rows, i), j);
}

Grid AddNorm(const Grid& a, const Grid* b, const Norm& norm, std::int64_t groups,
             const Grid* gate) {
  Grid sum = a;
  if (b != nullptr) sum = Each([](double p, double q) { return p + q; }, a, *b);
  const Grid out = LayerNorm(sum, norm, groups);
  if (gate == nullptr) return out;
  return Each([](double v, double g) { return v * g * SigmoidOf(g); }, out, *gate);
}

Grid RmsNorm(const Grid& x) {
  Grid out(x.rows(), x.cols());
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    double square = 0.0;
    for (std::int64_t j = 0; j < x.cols(); ++j) square += x(i, j) * x(i, j);
    const double rms = std::sqrt(square) / std::sqrt(static_cast<double>(x.cols()));
    for (std::int64_t j = 0; j < x.cols(); ++j) out(i, j) = x(i, j) / (rms + 1e-8);
  }
  return out;
}

std::pair<Grid, Grid> RmsShift(const Grid& in, const std::vector<std::int64_t>& index,
                               const std::vector<std::int64_t>& previous) {
  const Grid normed = RmsNorm(in);
  return {GatherRows(normed, index), GatherRows(normed, previous)};
}

Grid Lerp(const Grid& cur, const Grid& diff, const Grid& mix) {
  Grid out(cur.rows(), cur.cols());
  for (std::int64_t i = 0; i < cur.rows(); ++i)
    for (std::int64_t j = 0; j < cur.cols(); ++j)
      out(i, j) = cur(i, j) + diff(i, j) * mix(0, j);
  return out;
}

Grid Apply(Finish finish, const Grid& sums, const FinishOperands& with) {
  Grid y(sums.rows(), sums.cols());
  for (std::int64_t i = 0; i < y.rows(); ++i) {
    for (std::int64_t j = 0; j < y.cols(); ++j) {
      const double sum = sums(i, j);
      switch (finish) {
        case Finish::kStore:
          y(i, j) = sum;
          break;
        case Finish::kTanh:
          y(i, j) = std::tanh(sum);
          break;
        case Finish::kReluSquared:
          y(i, j) = sum < 0.0 ? 0.0 : sum * sum;
          break;
        case Finish::kLerp:
          y(i, j) = with.a(i, j) + with.b(i, j) * (with.bias(0, j) + sum);
          break;
        case Finish::kDecay:
          y(i, j) = std::exp(-std::exp(with.bias(0, j) + sum));
          break;
        case Finish::kAdd:
          y(i, j) = with.y(i, j) + sum;
          break;
        case Finish::kGatedAdd:
          y(i, j) = with.y(i, j) + SigmoidOf(with.a(i, j)) * sum;
          break;
      }
    }
  }
  return y;
}

Grid Sigmoid(const Grid& x) { return Each(SigmoidOf, x); }

Grid GatherRows(const Grid& in, const std::vector<std::int64_t>& index) {
  Grid out(Size(index), in.cols());
  for (std::int64_t i = 0; i < out.rows(); ++i)
    for (std::int64_t j = 0; j < in.cols(); ++j)
      out(i, j) = At(index, i) < 0 ? 0.0 : in(At(index, i), j);
  return out;
}

void ScatterRows(const Grid& in, const std::vector<std::int64_t>& index, Grid& out) {
  for (std::int64_t i = 0; i < in.rows(); ++i)
    for (std::int64_t j = 0; j < in.cols(); ++j) out(At(index, i), j) = in(i, j);
}

Grid Wkv(const WkvInputs& in, Grid& state) {
  Grid y(in.r.rows(), in.r.cols());
  const std::vector<std::int32_t>& slots = MoveStates(in.spans, state);
  for (std::int64_t s = 0; s < Size(in.spans.slot); ++s) {
    const std::int64_t slot = At(slots, s);
    for (std::int64_t t = At(in.spans.begin, s); t < At(in.spans.begin, s + 1); ++t) {
      for (std::int64_t column = 0; column < y.cols(); ++column) {
        const std::int64_t head = column / kHead * kHead;  // its first column
        for (std::int64_t j = 0; j < kHead; ++j) {
          const std::int64_t key = head + j;
          double& cell = state(slot, key * kHead + column - head);
          const double now = in.k(t, key) * in.v(t, column);
          const double bonus = in.bonus != nullptr ? (*in.bonus)(0, key) : 0.0;
          y(t, column) += in.r(t, key) * (cell + bonus * now);
          cell = in.w(t, key) * cell + now;
        }
      }
    }
  }
  return y;
}

Grid Rope(const Grid& x, const std::vector<std::int64_t>& position,
          const std::vector<double>& frequency) {
  Grid out(x.rows(), x.cols());
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    for (std::int64_t j = 0; j < x.cols(); j += 2) {
      const double pair = At(frequency, j % kHead / 2);
      const double angle = static_cast<double>(At(position, i)) * pair;
      const double a = x(i, j), b = x(i, j + 1);
      out(i, j) = a * std::cos(angle) - b * std::sin(angle);
      out(i, j + 1) = a * std::sin(angle) + b * std::cos(angle);
    }
  }
  return out;
}

std::vector<std::int64_t> SeenTokens(const Attention& in, std::int64_t row) {
  std::vector<std::int64_t> tokens;
  const std::int64_t list = At(in.span, row);
  for (std::int64_t i = At(in.tile_begin, list); i < At(in.tile_begin, list + 1); ++i)
    for (std::int64_t t = 0; t < in.page_tokens; ++t)
      if (At(in.tile_position, i) + t <= At(in.position, row))
        tokens.push_back(At(in.tile, i) * in.page_tokens + t);
  return tokens;
}

std::vector<double> AttentionScores(const Attention& in, std::int64_t row,
                                    std::int64_t head,
                                    const std::vector<std::int64_t>& tokens) {
  std::vector<double> scores;
  for (const std::int64_t token : tokens) {
    double score = 0.0;
    for (std::int64_t j = head * kHead; j < (head + 1) * kHead; ++j)
      score += in.q(row, j) * in.keys(token, j) / 8.0;
    scores.push_back(score);
  }
  return scores;
}

Grid Attend(const Attention& in) {
  Grid out(in.q.rows(), in.q.cols());
  for (std::int64_t row = 0; row < out.rows(); ++row) {
    const std::vector<std::int64_t> tokens = SeenTokens(in, row);
    for (std::int64_t head = 0; head < out.cols() / kHead; ++head) {
      const std::vector<double> scores = AttentionScores(in, row, head, tokens);
      const double maximum = *std::max_element(scores.begin(), scores.end());
      double total = 0.0;
      for (const double score : scores) total += std::exp(score - maximum);
      for (std::int64_t j = head * kHead; j < (head + 1) * kHead; ++j)
        for (std::int64_t t = 0; t < Size(tokens); ++t)
          out(row, j) +=
              std::exp(At(scores, t) - maximum) / total * in.values(At(tokens, t), j);
    }
  }
  return out;
}

std::pair<double, bool> Score(const Grid& logits, std::int64_t row, std::int64_t target) {
  std::int64_t best = 0;
  for (std::int64_t j = 1; j < logits.cols(); ++j)
    if (logits(row, j) > logits(row, best)) best = j;
  double total = 0.0;
  for (std::int64_t j = 0; j < logits.cols(); ++j)
    total += std::exp(logits(row, j) - logits(row, best));
  const double logprob = logits(row, target) - logits(row, best) - std::log(total);
  return {logprob, target == best};
}

}  // namespace goldfinch::reference
