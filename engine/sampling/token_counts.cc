#include "engine/sampling/token_counts.h"

#include <atomic>

#include "engine/check.h"

namespace goldfinch {
namespace {

std::size_t NumWords(std::int32_t vocab_size) {
  GOLDFINCH_CHECK(vocab_size > 0);
  return (static_cast<std::size_t>(vocab_size) + 63) / 64;
}

std::uint64_t Bit(std::size_t token) { return std::uint64_t{1} << (token % 64); }

}  // namespace

std::uint64_t TokenCounts::Id::Next() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

TokenCounts::TokenCounts(std::int32_t vocab_size)
    : in_prompt_(NumWords(vocab_size)),
      in_output_(NumWords(vocab_size)),
      counts_(static_cast<std::size_t>(vocab_size)) {}

void TokenCounts::AddPrompt(std::span<const TokenId> tokens) {
  for (const TokenId id : tokens) {
    const auto token = static_cast<std::size_t>(id);
    GOLDFINCH_CHECK(token < counts_.size());
    in_prompt_[token / 64] |= Bit(token);
  }
  num_prompt_ += static_cast<std::int64_t>(tokens.size());
}

void TokenCounts::AddOutput(TokenId id) {
  const auto token = static_cast<std::size_t>(id);
  GOLDFINCH_CHECK(token < counts_.size());
  in_output_[token / 64] |= Bit(token);
  ++counts_[token];
  ++num_outputs_;
  last_output_ = id;
}

std::int64_t TokenCounts::num_distinct() const {
  std::int64_t count = 0;
  for (std::size_t word = 0; word < in_prompt_.size(); ++word)
    count += std::popcount(in_prompt_[word] | in_output_[word]);
  return count;
}

bool TokenCounts::InPrompt(TokenId id) const {
  const auto token = static_cast<std::size_t>(id);
  GOLDFINCH_CHECK(token < counts_.size());
  return (in_prompt_[token / 64] & Bit(token)) != 0;
}

std::int32_t TokenCounts::OutputCount(TokenId id) const {
  const auto token = static_cast<std::size_t>(id);
  GOLDFINCH_CHECK(token < counts_.size());
  return counts_[token];
}

}  // namespace goldfinch
