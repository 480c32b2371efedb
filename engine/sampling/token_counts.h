// What the penalties of one sequence look at: which tokens its prompt holds, and how
// often each token has been generated.
//
// The cost is one bit per vocabulary token for the prompt and one bit and 4 bytes for
// the output (272 KiB for 65536 tokens), whatever the length of the sequence. It is paid
// when the object is made: AddPrompt and AddOutput never allocate. Only a sequence whose
// SamplingParams::HasPenalties() needs one.
//
// Copying (a branch of a sequence) copies everything but the id; copying onto an object
// of the same vocabulary allocates nothing.
//
// Threads: one thread at a time, as for any value.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/token.h"

namespace goldfinch {

class TokenCounts {
  // New with every copy.
  struct Id {
    Id() : value(Next()) {}
    Id(const Id&) : Id() {}
    Id& operator=(const Id&) {
      value = Next();
      return *this;
    }
    static std::uint64_t Next();
    std::uint64_t value;
  };

 public:
  // Nothing seen yet. Tokens given later are in [0, vocab_size).
  explicit TokenCounts(std::int32_t vocab_size);

  // May be called piece by piece; about a nanosecond a token.
  void AddPrompt(std::span<const TokenId> tokens);
  void AddOutput(TokenId token);

  // No two objects of a process have had the same, nor has one before and after it was
  // copied onto. So whoever keeps a copy elsewhere knows by id, num_prompt and
  // num_outputs what has changed since: nothing, the last output, or more.
  std::uint64_t id() const { return id_.value; }
  // Tokens given to AddPrompt, and the last one given to AddOutput, if any.
  std::int64_t num_prompt() const { return num_prompt_; }
  TokenId last_output() const { return last_output_; }
  // Tokens that ForEach visits.
  std::int64_t num_distinct() const;

  std::int32_t vocab_size() const { return static_cast<std::int32_t>(counts_.size()); }
  // Tokens given to AddOutput, repeats included.
  std::int64_t num_outputs() const { return num_outputs_; }
  bool InPrompt(TokenId token) const;
  std::int32_t OutputCount(TokenId token) const;

  // Calls visit(token, in_prompt, output_count) once for every distinct token seen, by
  // increasing id.
  template <typename Visitor>
  void ForEach(Visitor&& visit) const {
    for (std::size_t word = 0; word < in_prompt_.size(); ++word) {
      for (std::uint64_t bits = in_prompt_[word] | in_output_[word]; bits != 0;
           bits &= bits - 1) {
        const int bit = std::countr_zero(bits);
        const std::size_t token = word * 64 + static_cast<std::size_t>(bit);
        visit(static_cast<TokenId>(token), ((in_prompt_[word] >> bit) & 1) != 0,
              counts_[token]);
      }
    }
  }

 private:
  std::vector<std::uint64_t> in_prompt_;  // bitmap over the vocabulary
  std::vector<std::uint64_t> in_output_;  // bit set where counts_ is not 0
  std::vector<std::int32_t> counts_;      // in the output
  std::int64_t num_outputs_ = 0;
  std::int64_t num_prompt_ = 0;
  TokenId last_output_ = 0;
  Id id_;
};

}  // namespace goldfinch
