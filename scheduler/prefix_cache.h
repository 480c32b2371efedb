// Prefixes of finished prompts and turns, kept until space is needed, so that a prompt
// that begins like an earlier one is fed from where they part.
//
// Entries hold a copy of the recurrent state in host memory each, which is what the
// budget counts; their pages count as free for admission (prefix_keeper.h). The one used
// longest ago goes first. Tenants share nothing: whether a prefix is there would tell one
// what another asked (prefix_index.h).
//
// Threads: the step thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "engine/token.h"
#include "scheduler/kept_prefix.h"
#include "scheduler/observer.h"
#include "scheduler/prefix_index.h"

namespace goldfinch {

class PrefixCache {
 public:
  static constexpr std::int64_t kBlockTokens = 64;
  // Shorter ones are computed as fast as their state is copied: never asked for or kept.
  static constexpr std::int64_t kMinTokens = 32;

  // 0 bytes: nothing is ever kept.
  explicit PrefixCache(std::int64_t max_bytes);

  bool enabled() const { return max_bytes_ > 0; }

  struct Found {
    std::shared_ptr<KeptPrefix> prefix = nullptr;  // the longest there is, if any
    std::int64_t shared = 0;  // beginning of the prompt that was seen before
  };
  // What was found, for who has to ask again: while no entry has come or gone, no token
  // is looked at. It holds no prefix, so it keeps none from being forgotten.
  struct Lookup {
    std::uint64_t as_of = 0;  // changes to the cache until then; 0: not asked yet
    PrefixIndex::Match match;
    PrefixLookup outcome = PrefixLookup::kNone;
  };
  // For a prompt of which up to `most` tokens may come from the cache. `lookup` is a new
  // one, or of an earlier call with the same arguments.
  Found Find(std::string_view tenant, std::span<const TokenId> prompt, std::int64_t most,
             Lookup& lookup);

  // An entry for as long as it is there, and nothing afterwards; kNone: none. Who comes
  // by one place after another says which was the last, `after`, so that the tokens up to
  // there are not compared again.
  using Handle = PrefixIndex::Handle;
  static constexpr Handle kNone = PrefixIndex::kNone;
  Handle HandleOf(const KeptPrefix& prefix) const;

  // `prefix` is of `tokens`, at least kMinTokens, all of them run, here and nowhere else
  // (KeptPrefix::Origin). What is there already stays, and it is not inserted: kNone.
  Handle Insert(std::string_view tenant, std::span<const TokenId> tokens,
                std::shared_ptr<KeptPrefix> prefix, Handle after = kNone);

  // The entry of exactly these tokens, if there is one; it counts as used now.
  Handle Refresh(std::string_view tenant, std::span<const TokenId> tokens,
                 Handle after = kNone);

  // Takes it out, if it is there.
  void Forget(const KeptPrefix& prefix);

  std::int64_t bytes() const { return bytes_ + index_.bytes(); }
  std::int64_t num_entries() const { return std::ssize(entries_); }
  // Entries that went because the budget was full, and those that were forgotten.
  std::uint64_t num_evicted() const { return num_evicted_; }
  std::uint64_t num_forgotten() const { return num_forgotten_; }

 private:
  struct Entry {
    std::shared_ptr<KeptPrefix> prefix = nullptr;
    std::int64_t bytes = 0;
    std::uint64_t last_use = 0;
    std::uint64_t beginning = 0;  // hash of its first tokens
  };

  PrefixLookup OutcomeOf(const PrefixIndex::Match& match, std::string_view tenant,
                         std::span<const TokenId> prompt) const;
  void Touch(Handle handle, Entry& entry);
  void Evict(Handle handle);
  void RememberEvicted(std::uint64_t beginning);

  const std::int64_t max_bytes_;
  PrefixIndex index_;
  std::unordered_map<Handle, Entry> entries_;
  std::unordered_map<const KeptPrefix*, Handle> handles_;
  std::map<std::uint64_t, Handle> by_use_;
  Handle last_handle_ = 0;
  std::uint64_t last_use_ = 0;
  std::int64_t bytes_ = 0;
  std::uint64_t changes_ = 1;  // entries that came or went, and one
  std::uint64_t num_evicted_ = 0, num_forgotten_ = 0;
  // The beginnings of entries that went, to tell a miss for want of space from others.
  std::deque<std::uint64_t> evicted_order_;
  std::unordered_multiset<std::uint64_t> evicted_;
};

}  // namespace goldfinch
