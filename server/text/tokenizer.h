// Text to token ids and back: the longest token that the text begins with, again and
// again, over bytes.
//
// As in the authors' tokenizer, id 0 is spelled "<|endoftext|>" here, in both directions
// (unless the vocabulary lists those bytes under another id): it is one more token of the
// greedy match. Generated text never shows it: Vocabulary::bytes(0) is empty.
//
// The vocabulary is a trie in breadth-first order: the children of a node are neighbours,
// sorted by byte, so a node is a range and a step is one search among at most 256 labels.
// The root has all 256 children (Vocabulary's promise), so every text can be encoded.
//
// Invariant: Decode(Encode(x)) == x for every byte string x. One token costs at most
// longest_token() steps, so encoding is linear in the text whatever it holds.
//
// Threads: immutable after construction, so any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/token.h"
#include "server/text/vocabulary.h"

namespace goldfinch {

class Tokenizer {
 public:
  static constexpr std::string_view kEndOfTextSpelling = "<|endoftext|>";

  struct Match {
    TokenId id = 0;
    size_t length = 0;  // bytes of the token
    size_t steps = 0;   // bytes looked at, at least `length`
  };

  // `vocabulary` must outlive the tokenizer.
  explicit Tokenizer(const Vocabulary& vocabulary);

  // Appends the ids of `text` to `ids`.
  void Encode(std::string_view text, std::vector<TokenId>& ids) const;

  // The bytes of `ids`, which must all be in the vocabulary; not always valid UTF-8.
  // Unlisted ids have none.
  std::string Decode(std::span<const TokenId> ids) const;
  // How many that are.
  std::int64_t DecodedBytes(std::span<const TokenId> ids) const;

  // The longest token that `text`, which must not be empty, begins with.
  Match LongestMatch(std::string_view text) const;

  size_t longest_token() const { return longest_token_; }

 private:
  // The child of `node` under `byte`, or 0: the root is nobody's child.
  uint32_t Child(uint32_t node, char byte) const;

  const Vocabulary& vocabulary_;
  size_t longest_token_ = 0;
  // Node n: its token (or kNoToken), the byte that leads to it, and its children, the
  // nodes [first_child_[n], first_child_[n + 1]).
  std::vector<TokenId> token_;
  std::vector<char> label_;
  std::vector<uint32_t> first_child_;
};

}  // namespace goldfinch
