// Watches a stream of text for stop strings and says how much of it may be shown.
//
// The match is the one that ENDS first in the stream; of those ending at the same byte
// the longest (it starts first); of equal strings the one with the lowest index. Text
// that may still become the beginning of a match is held back: the longest suffix of the
// stream that begins a stop string.
//
// Invariant: matches, and all text released up to any point, depend on the text alone and
// not on how it was cut into pieces. The text before a match is released in full, of the
// match itself nothing, unless it was asked for.
//
// An Aho-Corasick automaton: its node is the held text, so a matcher's state is one
// number. A text of n bytes costs at most 2n moves, each a look at no more children than
// there are stop strings.
//
// Threads: StopStrings is immutable, any; StopMatcher is thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace goldfinch {

// The automaton of one request's stop strings. Shared, because the copies of its matchers
// (step thread, server) end at different times.
class StopStrings {
 public:
  // No strings at all is a list that never matches. Each must be valid UTF-8 and not
  // empty; how many and how long is the caller's limit.
  static absl::StatusOr<std::shared_ptr<const StopStrings>> Create(
      std::span<const std::string> strings);

 private:
  friend class StopMatcher;
  static constexpr uint32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  struct Node {
    char byte = 0;             // leads from the parent here
    uint32_t depth = 0;        // length of the text this node stands for
    uint32_t fail = kRoot;     // its longest proper suffix that is a node
    uint32_t first_child = 0;  // 0 is none: the root is nobody's child
    uint32_t next_sibling = 0;
    int32_t prefix_of = kNone;  // a string that begins with the node's text
    int32_t match = kNone;      // the string that has matched here
  };

  StopStrings() : nodes_(1) {}
  void Insert(int32_t index);
  void Link();
  uint32_t Child(uint32_t node, char byte) const;
  uint32_t Next(uint32_t node, char byte) const;
  std::string_view TextOf(uint32_t node) const;

  std::vector<std::string> strings_;
  std::vector<Node> nodes_;
  std::array<uint32_t, 256> root_child_{};  // most text begins no stop string
};

enum class StopText { kExclude, kInclude };

class StopMatcher {
 public:
  StopMatcher(std::shared_ptr<const StopStrings> strings, StopText stop_text);

  // Takes the next piece and appends to `text` what may be shown now. After a match
  // everything is dropped.
  void Push(std::string_view piece, std::string& text);

  // Ends the stream: appends what was held back. After a match that is nothing.
  void Flush(std::string& text);

  // The index of the stop string that matched.
  std::optional<int> matched() const;

  // The text held back. Pushing it into a fresh matcher of the same strings restores this
  // state.
  std::string_view held() const { return strings_->TextOf(node_); }

 private:
  std::shared_ptr<const StopStrings> strings_;
  StopText stop_text_;
  uint32_t node_ = StopStrings::kRoot;
  int32_t matched_ = StopStrings::kNone;
};

}  // namespace goldfinch
