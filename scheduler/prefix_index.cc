#include "scheduler/prefix_index.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <utility>

#include "engine/check.h"

namespace goldfinch {
namespace {

using Tokens = std::span<const TokenId>;

// An entry in a hash table: a link, a key, a value of at most two words, its bucket and
// what the allocator adds.
constexpr std::int64_t kEntryBytes = 56;

// Lexicographic by the bytes of the tokens. Any order of tokens will do, as long as it is
// lexicographic, and this one is a single memcmp.
bool Before(Tokens a, Tokens b) {
  const std::size_t common = std::min(a.size(), b.size());
  if (common > 0) {  // memcmp takes no null pointer, not even to nothing
    const int order = std::memcmp(a.data(), b.data(), common * sizeof(TokenId));
    if (order != 0) return order < 0;
  }
  return a.size() < b.size();
}

std::size_t CommonPrefix(Tokens a, Tokens b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

// The root has no block and no parent; a node with a handle or a child stays.
struct PrefixIndex::Node {
  Node* parent = nullptr;
  std::int64_t length = 0;     // tokens from the root to the end of this block
  std::vector<TokenId> block;  // fewer than a whole block: an entry without children
  std::optional<Handle> handle;
  std::vector<std::unique_ptr<Node>> children;  // by Before of their blocks, none equal

  auto LowerBound(Tokens wanted) const {
    return std::ranges::lower_bound(children, wanted, Before, &BlockOf);
  }

  std::int64_t bytes() const {
    return static_cast<std::int64_t>(sizeof(Node) + sizeof(std::unique_ptr<Node>) +
                                     block.size() * sizeof(TokenId));
  }

  static Tokens BlockOf(const std::unique_ptr<Node>& node) { return node->block; }
};

PrefixIndex::PrefixIndex(std::int64_t block_tokens) : block_tokens_(block_tokens) {
  GOLDFINCH_CHECK(block_tokens >= 1);
}

// From the leaves up: a destructor of a node that destroys its children would be as deep
// as the longest entry has blocks.
PrefixIndex::~PrefixIndex() {
  while (!entries_.empty()) Erase(entries_.begin()->first);
}

PrefixIndex::Match PrefixIndex::Find(std::string_view tenant, Tokens tokens,
                                     std::int64_t most) const {
  GOLDFINCH_CHECK(most >= 0);
  const auto root = roots_.find(tenant);
  if (root == roots_.end()) return {};
  tokens = tokens.first(std::min(tokens.size(), static_cast<std::size_t>(most)));

  const Node* node = Descend(*root->second, tokens);
  const Tokens block = BlockAfter(*node, tokens);
  const auto next = node->LowerBound(block);
  std::size_t common = 0;
  if (next != node->children.end()) common = CommonPrefix((*next)->block, block);
  if (next != node->children.begin()) {
    common = std::max(common, CommonPrefix((*std::prev(next))->block, block));
  }

  Match match;
  match.shared = node->length + static_cast<std::int64_t>(common);
  for (; node != nullptr; node = node->parent) {
    const Node* entry = LongestTail(*node, BlockAfter(*node, tokens));
    if (entry == nullptr && node->handle) entry = node;
    if (entry == nullptr) continue;
    match.handle = entry->handle;
    match.tokens = entry->length;
    break;
  }
  return match;
}

std::optional<PrefixIndex::Handle> PrefixIndex::FindExact(std::string_view tenant,
                                                          Tokens tokens,
                                                          Handle after) const {
  const auto root = roots_.find(tenant);
  if (root == roots_.end()) return std::nullopt;
  const Node* node = Descend(Begin(root, tokens, after), tokens);
  return node->length == std::ssize(tokens) ? node->handle : std::nullopt;
}

bool PrefixIndex::Insert(std::string_view tenant, Tokens tokens, Handle handle,
                         Handle after) {
  GOLDFINCH_CHECK(!tokens.empty());
  GOLDFINCH_CHECK(handle != kNone && !entries_.contains(handle));
  auto root = roots_.find(tenant);
  if (root == roots_.end()) {
    root = roots_.emplace(tenant, std::make_unique<Node>()).first;
    bytes_ += root->second->bytes() + std::ssize(tenant);
  }
  Node* node = Descend(Begin(root, tokens, after), tokens);
  while (node->length < std::ssize(tokens)) {
    node = AddChild(*node, BlockAfter(*node, tokens));
  }
  if (node->handle) return false;
  node->handle = handle;
  entries_.emplace(handle, Entry{.node = node, .root = root});
  bytes_ += kEntryBytes;
  return true;
}

void PrefixIndex::Erase(Handle handle) {
  const auto found = entries_.find(handle);
  GOLDFINCH_CHECK(found != entries_.end());
  const auto [node, root] = found->second;
  entries_.erase(found);
  bytes_ -= kEntryBytes;

  node->handle.reset();
  Node* last = node;
  while (last->parent != nullptr && last->children.empty() && !last->handle) {
    Node* const parent = last->parent;
    RemoveChild(*last);
    last = parent;
  }
  if (!root->second->children.empty()) return;
  bytes_ -= root->second->bytes() + std::ssize(root->first);
  roots_.erase(root);
}

Tokens PrefixIndex::BlockAfter(const Node& node, Tokens tokens) const {
  tokens = tokens.subspan(static_cast<std::size_t>(node.length));
  return tokens.first(std::min(tokens.size(), static_cast<std::size_t>(block_tokens_)));
}

// The child whose block is exactly what comes next, or null.
PrefixIndex::Node* PrefixIndex::Child(const Node& node, Tokens tokens) const {
  const Tokens block = BlockAfter(node, tokens);
  const auto next = node.LowerBound(block);
  if (next == node.children.end() || !std::ranges::equal((*next)->block, block)) {
    return nullptr;
  }
  return next->get();
}

// Where a search begins that need not compare what the entry `after` is of.
PrefixIndex::Node& PrefixIndex::Begin(Roots::const_iterator root, Tokens tokens,
                                      Handle after) const {
  const auto found = entries_.find(after);
  if (found == entries_.end() || found->second.root != root) return *root->second;
  Node* const node = found->second.node;
  GOLDFINCH_CHECK(node->length <= std::ssize(tokens));
  // Below a part of a block there is nothing.
  return std::ssize(node->block) < block_tokens_ ? *node->parent : *node;
}

// The last node on the way of `tokens` below one that is on it, whose whole blocks all
// agree with them.
PrefixIndex::Node* PrefixIndex::Descend(Node& from, Tokens tokens) const {
  Node* node = &from;
  while (Node* const child = Child(*node, tokens)) node = child;
  return node;
}

// The longest child that is shorter than a whole block and a prefix of `block`, or null.
const PrefixIndex::Node* PrefixIndex::LongestTail(const Node& node, Tokens block) const {
  block =
      block.first(std::min(block.size(), static_cast<std::size_t>(block_tokens_ - 1)));
  while (true) {
    const auto after =
        std::ranges::upper_bound(node.children, block, Before, &Node::BlockOf);
    if (after == node.children.begin()) return nullptr;
    const Node& before = **std::prev(after);
    const std::size_t common = CommonPrefix(before.block, block);
    if (common == before.block.size()) return &before;
    // Any prefix of `block` sorts at or before `before`, so it is also a prefix of what
    // the two have in common.
    block = block.first(common);
  }
}

PrefixIndex::Node* PrefixIndex::AddChild(Node& parent, Tokens block) {
  auto node = std::make_unique<Node>();
  node->parent = &parent;
  node->length = parent.length + std::ssize(block);
  node->block.assign(block.begin(), block.end());
  bytes_ += node->bytes();
  return parent.children.insert(parent.LowerBound(block), std::move(node))->get();
}

void PrefixIndex::RemoveChild(Node& child) {
  bytes_ -= child.bytes();
  std::vector<std::unique_ptr<Node>>& siblings = child.parent->children;
  siblings.erase(child.parent->LowerBound(child.block));
}

}  // namespace goldfinch
