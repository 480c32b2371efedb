#include "server/text/stop_matcher.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "server/text/detokenizer.h"

namespace goldfinch {

absl::StatusOr<std::shared_ptr<const StopStrings>> StopStrings::Create(
    std::span<const std::string> strings) {
  for (size_t i = 0; i < strings.size(); ++i) {
    if (strings[i].empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop string ", i, " has 0 bytes; it needs at least 1"));
    }
    if (!IsValidUtf8(strings[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop string ", i, " is not valid UTF-8"));
    }
  }
  std::shared_ptr<StopStrings> result(new StopStrings);
  result->strings_.assign(strings.begin(), strings.end());
  for (size_t i = 0; i < strings.size(); ++i) result->Insert(static_cast<int32_t>(i));
  result->Link();
  return result;
}

void StopStrings::Insert(int32_t index) {
  uint32_t node = kRoot;
  for (const char byte : strings_[static_cast<size_t>(index)]) {
    uint32_t child = Child(node, byte);
    if (child == kRoot) {
      child = static_cast<uint32_t>(nodes_.size());
      Node made;
      made.byte = byte;
      made.depth = nodes_[node].depth + 1;
      made.next_sibling = std::exchange(nodes_[node].first_child, child);
      made.prefix_of = index;
      nodes_.push_back(made);
      if (node == kRoot) root_child_[static_cast<uint8_t>(byte)] = child;
    }
    node = child;
  }
  if (nodes_[node].match == kNone) nodes_[node].match = index;
}

// Sets `fail` and inherits matches, shallow nodes first.
void StopStrings::Link() {
  std::vector<uint32_t> queue = {kRoot};
  for (size_t i = 0; i < queue.size(); ++i) {
    const uint32_t parent = queue[i];
    for (uint32_t n = nodes_[parent].first_child; n != 0; n = nodes_[n].next_sibling) {
      Node& node = nodes_[n];
      if (parent != kRoot) node.fail = Next(nodes_[parent].fail, node.byte);
      if (node.match == kNone) node.match = nodes_[node.fail].match;
      queue.push_back(n);
    }
  }
}

uint32_t StopStrings::Child(uint32_t node, char byte) const {
  if (node == kRoot) return root_child_[static_cast<uint8_t>(byte)];
  uint32_t child = nodes_[node].first_child;
  while (child != 0 && nodes_[child].byte != byte) child = nodes_[child].next_sibling;
  return child;
}

// The node of the longest suffix of (text of `node`) + `byte` that begins a stop string.
uint32_t StopStrings::Next(uint32_t node, char byte) const {
  for (;;) {
    const uint32_t child = Child(node, byte);
    if (child != 0 || node == kRoot) return child;
    node = nodes_[node].fail;
  }
}

std::string_view StopStrings::TextOf(uint32_t node) const {
  if (node == kRoot) return {};
  const Node& n = nodes_[node];
  return std::string_view(strings_[static_cast<size_t>(n.prefix_of)]).substr(0, n.depth);
}

StopMatcher::StopMatcher(std::shared_ptr<const StopStrings> strings, StopText stop_text)
    : strings_(std::move(strings)), stop_text_(stop_text) {
  GOLDFINCH_CHECK(strings_ != nullptr);
}

void StopMatcher::Push(std::string_view piece, std::string& text) {
  if (matched_ != StopStrings::kNone) return;
  const std::string_view held_before = held();
  size_t taken = 0;
  while (taken < piece.size() && matched_ == StopStrings::kNone) {
    node_ = strings_->Next(node_, piece[taken++]);
    matched_ = strings_->nodes_[node_].match;
  }
  size_t held_back = held().size();
  if (matched_ != StopStrings::kNone) {
    held_back = stop_text_ == StopText::kInclude
                    ? 0
                    : strings_->strings_[static_cast<size_t>(matched_)].size();
    node_ = StopStrings::kRoot;
  }
  // The end of (held_before + what was taken of the piece) stays back.
  const size_t released = held_before.size() + taken - held_back;
  text.append(held_before.substr(0, released));
  if (released > held_before.size()) {
    text.append(piece.substr(0, released - held_before.size()));
  }
}

void StopMatcher::Flush(std::string& text) {
  text.append(held());
  node_ = StopStrings::kRoot;
}

std::optional<int> StopMatcher::matched() const {
  if (matched_ == StopStrings::kNone) return std::nullopt;
  return matched_;
}

}  // namespace goldfinch
