// The tokenizer's plain twin: at every position try every length from the longest down.
// Quadratic and obvious.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/token.h"
#include "server/text/vocabulary.h"

namespace goldfinch::reference {

class GreedyTokenizer {
 public:
  explicit GreedyTokenizer(const Vocabulary& vocabulary) {
    ids_.emplace("<|endoftext|>", kEndOfText);
    longest_ = 13;
    for (TokenId id = 1; id < vocabulary.size(); ++id) {
      const std::string_view bytes = vocabulary.bytes(id);
      if (!bytes.empty()) ids_[std::string(bytes)] = id;
      longest_ = std::max(longest_, bytes.size());
    }
  }

  std::vector<TokenId> Encode(std::string_view text) const {
    std::vector<TokenId> ids;
    while (!text.empty()) {
      size_t length = std::min(longest_, text.size());
      while (!ids_.contains(std::string(text.substr(0, length)))) --length;
      ids.push_back(ids_.at(std::string(text.substr(0, length))));
      text.remove_prefix(length);
    }
    return ids;
  }

 private:
  std::map<std::string, TokenId> ids_;
  size_t longest_ = 0;
};

}  // namespace goldfinch::reference
