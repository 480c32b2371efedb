// The session manager's claims: which are good, which come from the store, and how each
// is given up in the end.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "sessions/session_manager_impl.h"

namespace goldfinch {

bool SessionManager::Impl::HasGoodClaim(const HeldSession& session) const {
  if (store_ == nullptr) return true;
  return !session.claim_in_doubt && ClaimToDelete(session).has_value();
}

std::optional<Claim> SessionManager::Impl::ClaimToDelete(
    const HeldSession& session) const {
  const bool good = session.claim.has_value() && store_->is_good(*session.claim);
  return good ? session.claim : std::nullopt;
}

// After the claim was lost and won again: whether nobody else has written the session
// meanwhile. If nobody has claimed it in between, which the epoch tells, nobody has; the
// stored generation may then be of a write of ours whose answer was lost. And what is
// older than what this server has written is no news, whatever became of that (a store
// that lost its memory).
bool SessionManager::Impl::IsOurs(const HeldSession& session, const Claim& claim) const {
  if (claim.generation <= session.generation) return true;
  return session.claim.has_value() && claim.epoch == session.claim->epoch + 1;
}

bool SessionManager::Impl::TakeOver(const SessionPtr& session, const Claim& claim) {
  const MutexLock lock(mu_);
  if (!IsOurs(*session, claim)) return false;
  session->claim = claim;
  session->claim_in_doubt = false;
  // Generations go on from there, even from one that was not acknowledged.
  session->generation = std::max(session->generation, claim.generation);
  return true;
}

absl::StatusOr<Claim> SessionManager::Impl::ClaimInStore(const HeldSession& session,
                                                         AcquireMode mode) {
  auto claim = store_->Acquire(session.id, session.tenant, mode);
  const MutexLock lock(mu_);
  if (claim.ok()) {
    unheard_.erase({session.tenant, session.id});  // void now
  } else if (absl::IsUnavailable(claim.status()) && claim.status() != HeldElsewhere()) {
    unheard_.emplace(session.tenant, session.id);  // it may have been given all the same
  }
  return claim;
}

// A claim that stays would keep the session from other replicas for as long as this one
// lives.
void SessionManager::Impl::GiveUp(const std::string& id, const Claim& claim) {
  if (store_->Release(id, claim).ok()) return;
  const MutexLock lock(mu_);
  to_give_up_.emplace_back(id, claim);
}

// Claims that the store may have given without this server's having heard of it: as long
// as it lives, they would keep others from the sessions. After a lapse they are void.
void SessionManager::Impl::DisownUnheard() {
  {
    const MutexLock lock(mu_);
    if (unheard_.empty() || disowning_ || !CheckOpen().ok()) return;
    if (!store_->lease_is_good()) return unheard_.clear();
    disowning_ = true;
  }
  Async(
      [this] {
        while (DisownOne()) {
        }
        const MutexLock lock(mu_);
        disowning_ = false;
      },
      Urgency::kBackground);
}

// False when there are no more, or the store does not answer. What is in the table will
// be claimed anew, or go. Meanwhile a name in there keeps calls from claiming it.
bool SessionManager::Impl::DisownOne() {
  SessionPtr name;
  {
    const MutexLock lock(mu_);
    auto one = unheard_.begin();
    while (one != unheard_.end() && table_.Find(one->first, one->second) != nullptr) {
      ++one;
    }
    if (one == unheard_.end()) return false;
    name = std::make_shared<HeldSession>(one->first, one->second);
    name->busy = true;
    name->disowned = true;
    name->takes_place = false;
    table_.Add(name);
    unheard_.erase(one);
  }
  const bool done = store_->Disown(name->id).ok();
  if (!done) {
    const MutexLock lock(mu_);
    unheard_.emplace(name->tenant, name->id);
  }
  Forget(name);
  return done;
}

}  // namespace goldfinch
