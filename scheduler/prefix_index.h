// Which kept state is the longest prefix of a prompt, and how much of the prompt anything
// kept has in common with it: the index of a prefix cache. What a handle stands for, and
// which entry is given up for another, is decided elsewhere.
//
// A tree for each tenant, whose edges are blocks of `block_tokens` tokens; an entry that
// ends within a block is a leaf on a shorter edge. Siblings are in lexicographic order,
// so the one that agrees with a prompt the longest is a neighbour of where the prompt
// would stand. (A chain of hashes from block to block, the usual index, was slower in
// every case tried: such trees branch at a level or two, and tokens must be compared
// anyway.)
//
// Invariant: answers depend on tenants and tokens alone. Every node has an entry at or
// below it, so memory is bounded by the tokens of the entries. Tenants have no node in
// common.
//
// Threads: const methods by several at once; the others alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/token.h"

namespace goldfinch {

class PrefixIndex {
 public:
  using Handle = std::uint64_t;
  static constexpr Handle kNone = 0;

  struct Match {
    std::optional<Handle> handle;  // of the longest entry that is a prefix of the tokens
    std::int64_t tokens = 0;       // its length
    // The longest prefix that the tokens have in common with any entry, to the token: an
    // entry of this length would have served.
    std::int64_t shared = 0;
  };

  explicit PrefixIndex(std::int64_t block_tokens);  // at least 1
  ~PrefixIndex();
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Considers the first `most` tokens only (at least 0, and more than there are is all of
  // them): no entry is longer, and no more is shared. Allocates nothing.
  Match Find(std::string_view tenant, std::span<const TokenId> tokens,
             std::int64_t most) const;

  // The entry of exactly these tokens. If there is an entry `after`, and it is this
  // tenant's, it must be of a beginning of them: what it is of is not compared again.
  std::optional<Handle> FindExact(std::string_view tenant,
                                  std::span<const TokenId> tokens,
                                  Handle after = kNone) const;

  // At least one token: an empty prefix saves nothing. False, and nothing changes, when
  // there is an entry of exactly these tokens already. No two entries share a handle, and
  // none has kNone. `after` as above.
  bool Insert(std::string_view tenant, std::span<const TokenId> tokens, Handle handle,
              Handle after = kNone);

  // The entry must be there.
  void Erase(Handle handle);

  std::int64_t num_entries() const { return static_cast<std::int64_t>(entries_.size()); }

  // Host memory that the entries take, to within the overhead of containers.
  std::int64_t bytes() const { return bytes_; }

 private:
  struct Node;
  using Roots = std::map<std::string, std::unique_ptr<Node>, std::less<>>;
  struct Entry {
    Node* node = nullptr;
    Roots::iterator root;
  };

  // What of `tokens` comes after `node`, up to a block.
  std::span<const TokenId> BlockAfter(const Node& node,
                                      std::span<const TokenId> tokens) const;
  Node* Child(const Node& node, std::span<const TokenId> tokens) const;
  Node* Descend(Node& from, std::span<const TokenId> tokens) const;
  Node& Begin(Roots::const_iterator root, std::span<const TokenId> tokens,
              Handle after) const;
  const Node* LongestTail(const Node& node, std::span<const TokenId> block) const;
  Node* AddChild(Node& parent, std::span<const TokenId> block);
  void RemoveChild(Node& child);

  const std::int64_t block_tokens_;
  Roots roots_;  // of tenants with an entry
  std::unordered_map<Handle, Entry> entries_;
  std::int64_t bytes_ = 0;
};

}  // namespace goldfinch
