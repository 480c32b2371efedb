// Where kept prefixes are: it moves them between the device and host memory, and frees
// pages for admission by moving out what was used longest ago.
//
// What only the prefix cache holds is forgotten instead of moved: it can be computed
// again. Nothing is ever pinned: whatever no open sequence uses can go.
//
// Threads: the step thread; prefixes themselves may be let go on any.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/sync/mutex.h"
#include "scheduler/kept_prefix.h"

namespace goldfinch {

class PrefixKeeper {
 public:
  // `forget` takes a prefix out of the prefix cache; called for what it may hold alone.
  // `on_release` is called after a prefix on the device was let go, by whoever did: it
  // lets the step thread sleep until there is something to free. The engine outlives the
  // keeper; the keeper may go before the last prefix, after which `on_release` may still
  // be called.
  PrefixKeeper(Engine& engine, std::function<void(const KeptPrefix&)> forget,
               std::function<void()> on_release);
  ~PrefixKeeper();
  PrefixKeeper(const PrefixKeeper&) = delete;
  PrefixKeeper& operator=(const PrefixKeeper&) = delete;

  // A prefix on the device of what `sequence` holds now. `history` is empty for the
  // prefix cache, else the sequence's tokens and what is to come after them. `origin` is
  // that of what the sequence went on from.
  std::shared_ptr<KeptPrefix> Keep(SequenceId sequence, std::int64_t length,
                                   std::vector<TokenId> history,
                                   KeptPrefix::Origin origin);

  // As Engine::OpenFrom and OpenBranch count them: how many pages no open sequence holds
  // would become one's if `base` were on the device.
  std::int64_t PagesToOpen(const KeptPrefix& base, std::int64_t max_tokens) const;

  enum class Room { kMade, kNotNow };
  // Brings `base` (may be null) to the device and frees pages until `pages` more are
  // free. kNotNow when the step's copying is used up: the next step goes on. The pages
  // can be had (CHECK): open sequences hold no more than the others.
  Room MakeRoom(const std::shared_ptr<KeptPrefix>& base, std::int64_t pages);

  // INTERNAL when the base was lost with the device.
  absl::StatusOr<SequenceId> OpenFrom(KeptPrefix& base, const SequenceSpec& spec,
                                      std::span<const TokenId> history);

  // Its image, which is copied out if it is on the device; it stays where it is. None
  // for a prefix of no tokens, and when the device has failed.
  std::shared_ptr<const PrefixImage> ImageOf(KeptPrefix& prefix);
  // To host memory, if it is on the device; lost, if that has failed.
  void MoveToHost(KeptPrefix& prefix);

  // Frees what was let go; at the start of a step, which may copy `copy_bytes`.
  void BeginStep(std::int64_t copy_bytes);
  // What was copied beyond the rest of them does not count: so much is left.
  void LeaveCopyBytes(std::int64_t at_least) {
    copy_bytes_left_ = std::max(copy_bytes_left_, at_least);
  }
  // Bytes this step may still copy; 0 or less: no more.
  std::int64_t copy_bytes_left() const { return copy_bytes_left_; }

  std::int64_t num_on_device() const { return std::ssize(by_use_); }

 private:
  // What prefixes of any thread leave behind; outlives the keeper with the last of them.
  struct Released {
    explicit Released(std::function<void()> told) : on_release(std::move(told)) {}
    const std::function<void()> on_release;
    Mutex mu;
    std::vector<std::pair<PrefixId, std::uint64_t>> ids ABSL_GUARDED_BY(mu);
  };

  void Attach(const std::shared_ptr<KeptPrefix>& prefix, PrefixId id);
  void Detach(KeptPrefix& prefix);
  void Touch(const std::shared_ptr<KeptPrefix>& prefix);
  void Collect();
  bool EvictOne(const KeptPrefix* except);
  std::int64_t free_pages() const {
    return engine_.info().num_pages - engine_.usage().pages_used;
  }

  Engine& engine_;
  const std::function<void(const KeptPrefix&)> forget_;
  const std::shared_ptr<Released> released_;
  // On the device, by last use. Weak: a prefix may be let go at any time.
  std::map<std::uint64_t, std::weak_ptr<KeptPrefix>> by_use_;
  std::uint64_t last_use_ = 0;
  std::int64_t copy_bytes_left_ = 0;
};

}  // namespace goldfinch
