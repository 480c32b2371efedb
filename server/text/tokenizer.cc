#include "server/text/tokenizer.h"

#include <algorithm>
#include <cstring>

#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr TokenId kNoToken = -1;
constexpr uint32_t kRoot = 0;

std::string_view Spelling(const Vocabulary& vocabulary, TokenId id) {
  return id == kEndOfText ? Tokenizer::kEndOfTextSpelling : vocabulary.bytes(id);
}

// The ids that have a spelling, sorted by it; no two share one.
std::vector<TokenId> SortedIds(const Vocabulary& vocabulary) {
  const auto spelling = [&](TokenId id) { return Spelling(vocabulary, id); };
  std::vector<TokenId> ids;
  for (TokenId id = kEndOfText + 1; id < vocabulary.size(); ++id) {
    if (!vocabulary.bytes(id).empty()) ids.push_back(id);
  }
  const auto listed = std::ranges::find(ids, Tokenizer::kEndOfTextSpelling, spelling);
  if (listed == ids.end()) ids.push_back(kEndOfText);
  std::ranges::sort(ids, {}, spelling);
  return ids;
}

}  // namespace

Tokenizer::Tokenizer(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  // The tokens below a node share its prefix, `depth` bytes long, and are neighbours in
  // the sorted order: node n stands for ids[begin, end).
  struct Range {
    size_t begin, end, depth;
  };
  const std::vector<TokenId> ids = SortedIds(vocabulary);
  std::vector<Range> ranges = {{0, ids.size(), 0}};
  label_.push_back(0);
  for (size_t n = 0; n < ranges.size(); ++n) {
    auto [begin, end, depth] = ranges[n];
    longest_token_ = std::max(longest_token_, depth);
    // The prefix itself sorts before what it begins.
    const bool is_token = begin < end && Spelling(vocabulary, ids[begin]).size() == depth;
    token_.push_back(is_token ? ids[begin++] : kNoToken);
    first_child_.push_back(static_cast<uint32_t>(ranges.size()));
    while (begin < end) {
      const char byte = Spelling(vocabulary, ids[begin])[depth];
      size_t next = begin + 1;
      while (next < end && Spelling(vocabulary, ids[next])[depth] == byte) ++next;
      ranges.push_back({begin, next, depth + 1});
      label_.push_back(byte);
      begin = next;
    }
  }
  first_child_.push_back(static_cast<uint32_t>(ranges.size()));
}

uint32_t Tokenizer::Child(uint32_t node, char byte) const {
  const uint32_t begin = first_child_[node];
  const uint32_t end = first_child_[node + 1];
  const char* labels = label_.data();
  const void* found = std::memchr(labels + begin, byte, end - begin);
  return found == nullptr
             ? kRoot
             : static_cast<uint32_t>(static_cast<const char*>(found) - labels);
}

Tokenizer::Match Tokenizer::LongestMatch(std::string_view text) const {
  GOLDFINCH_CHECK(!text.empty());
  Match match;
  // The root's children are the 256 single bytes in order.
  uint32_t node = first_child_[kRoot] + static_cast<uint8_t>(text[0]);
  size_t depth = 1;
  for (;;) {
    if (token_[node] != kNoToken) {
      match.id = token_[node];
      match.length = depth;
    }
    match.steps = depth;
    if (depth == text.size()) return match;
    node = Child(node, text[depth]);
    if (node == kRoot) return match;
    ++depth;
  }
}

void Tokenizer::Encode(std::string_view text, std::vector<TokenId>& ids) const {
  while (!text.empty()) {
    const Match match = LongestMatch(text);
    ids.push_back(match.id);
    text.remove_prefix(match.length);
  }
}

std::string Tokenizer::Decode(std::span<const TokenId> ids) const {
  std::string bytes;
  for (const TokenId id : ids) bytes.append(Spelling(vocabulary_, id));
  return bytes;
}

std::int64_t Tokenizer::DecodedBytes(std::span<const TokenId> ids) const {
  std::int64_t bytes = 0;
  for (const TokenId id : ids) bytes += std::ssize(Spelling(vocabulary_, id));
  return bytes;
}

}  // namespace goldfinch
