#include "scheduler/prefix_cache.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/check.h"

namespace goldfinch {
namespace {

// Enough for the entries of a busy server; 64 KiB.
constexpr std::size_t kEvictedRemembered = 4096;

// A hash of the tenant and the first tokens: only to tell one reason of a miss.
std::uint64_t BeginningOf(std::string_view tenant, std::span<const TokenId> tokens) {
  std::uint64_t hash = std::hash<std::string_view>()(tenant);
  for (const TokenId token : tokens.first(PrefixCache::kMinTokens)) {
    hash = (hash ^ static_cast<std::uint64_t>(token)) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace

PrefixCache::PrefixCache(std::int64_t max_bytes)
    : max_bytes_(max_bytes), index_(kBlockTokens) {}

PrefixCache::Found PrefixCache::Find(std::string_view tenant,
                                     std::span<const TokenId> prompt, std::int64_t most,
                                     Lookup& lookup) {
  if (!enabled() || most < kMinTokens) return {};
  if (lookup.as_of != changes_) {
    lookup.as_of = changes_;
    lookup.match = index_.Find(tenant, prompt, most);
    lookup.outcome = OutcomeOf(lookup.match, tenant, prompt);
  }
  Found found{.shared = lookup.match.shared};
  if (lookup.match.handle.has_value()) {
    Entry& entry = entries_.at(*lookup.match.handle);
    Touch(*lookup.match.handle, entry);
    found.prefix = entry.prefix;
  }
  return found;
}

PrefixLookup PrefixCache::OutcomeOf(const PrefixIndex::Match& match,
                                    std::string_view tenant,
                                    std::span<const TokenId> prompt) const {
  if (match.handle.has_value()) return PrefixLookup::kHit;
  if (evicted_.contains(BeginningOf(tenant, prompt))) return PrefixLookup::kEvicted;
  return match.shared >= kBlockTokens ? PrefixLookup::kNotKeptThere : PrefixLookup::kCold;
}

PrefixCache::Handle PrefixCache::HandleOf(const KeptPrefix& prefix) const {
  const auto it = handles_.find(&prefix);
  return it == handles_.end() ? kNone : it->second;
}

PrefixCache::Handle PrefixCache::Insert(std::string_view tenant,
                                        std::span<const TokenId> tokens,
                                        std::shared_ptr<KeptPrefix> prefix,
                                        Handle after) {
  if (!enabled() || prefix->host_bytes() > max_bytes_) return kNone;
  GOLDFINCH_CHECK(std::ssize(tokens) >= kMinTokens);
  GOLDFINCH_CHECK(prefix->origin() == KeptPrefix::Origin::kComputedHere);
  const Handle handle = last_handle_ + 1;
  if (!index_.Insert(tenant, tokens, handle, after)) return kNone;
  ++last_handle_;
  ++changes_;
  Entry entry{.bytes = prefix->host_bytes(),
              .last_use = ++last_use_,
              .beginning = BeginningOf(tenant, tokens)};
  bytes_ += entry.bytes;
  handles_.emplace(prefix.get(), handle);
  by_use_.emplace(entry.last_use, handle);
  entry.prefix = std::move(prefix);
  entries_.emplace(handle, std::move(entry));
  while (bytes() > max_bytes_ && !by_use_.empty()) {
    Evict(by_use_.begin()->second);
    ++num_evicted_;
  }
  return handle;
}

PrefixCache::Handle PrefixCache::Refresh(std::string_view tenant,
                                         std::span<const TokenId> tokens, Handle after) {
  const std::optional<Handle> handle = index_.FindExact(tenant, tokens, after);
  if (handle.has_value()) Touch(*handle, entries_.at(*handle));
  return handle.value_or(kNone);
}

void PrefixCache::Forget(const KeptPrefix& prefix) {
  const auto it = handles_.find(&prefix);
  if (it == handles_.end()) return;
  Evict(it->second);
  ++num_forgotten_;
}

void PrefixCache::Touch(Handle handle, Entry& entry) {
  by_use_.erase(entry.last_use);
  entry.last_use = ++last_use_;
  by_use_.emplace(entry.last_use, handle);
}

void PrefixCache::Evict(Handle handle) {
  const auto it = entries_.find(handle);
  RememberEvicted(it->second.beginning);
  index_.Erase(handle);
  by_use_.erase(it->second.last_use);
  handles_.erase(it->second.prefix.get());
  bytes_ -= it->second.bytes;
  entries_.erase(it);
  ++changes_;
}

void PrefixCache::RememberEvicted(std::uint64_t beginning) {
  evicted_order_.push_back(beginning);
  evicted_.insert(beginning);
  if (evicted_order_.size() <= kEvictedRemembered) return;
  evicted_.erase(evicted_.find(evicted_order_.front()));
  evicted_order_.pop_front();
}

}  // namespace goldfinch
