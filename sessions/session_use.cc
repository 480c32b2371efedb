// What uses do to sessions.
#include "sessions/session_use.h"

#include <iterator>
#include <utility>

namespace goldfinch {

std::shared_ptr<SessionUse> SessionManager::Impl::UseOf(const SessionPtr& session) {
  const MutexLock lock(mu_);
  session->last_used = clock_.Now();
  session->resting = false;
  return std::make_shared<Use>(shared_from_this(), *session, session);
}

std::shared_ptr<SessionUse> SessionManager::Impl::Anonymous(std::string tenant) {
  return std::make_shared<Use>(shared_from_this(), std::move(tenant));
}

void SessionManager::Impl::Release(const SessionPtr& session) {
  bool doomed = false;
  {
    const MutexLock lock(mu_);
    doomed = LetGo(*session);
    session->request.reset();
    session->last_used = clock_.Now();
    changed_.NotifyAll();
  }
  if (doomed) DeleteDoomed(session);
}

void SessionManager::Impl::SetRequest(const SessionPtr& session, RequestId id) {
  const MutexLock lock(mu_);
  if (session->busy) session->request = id;
}

SessionPtr SessionManager::Impl::Finish(SessionPtr session, const std::string& tenant,
                                        std::optional<Turn> turn, RequestEnd end) {
  const bool resumable = end.interrupted && end.kept != nullptr;
  std::shared_ptr<const Turn> ended;
  if (turn.has_value()) {
    turn->num_generated = end.num_generated;
    turn->logprobs.insert(turn->logprobs.end(),
                          std::make_move_iterator(end.sampled.begin()),
                          std::make_move_iterator(end.sampled.end()));
    if (end.status.ok()) {
      turn->end = Turn::End{.reason = end.finish_reason, .match = end.stop};
    }
    ended = std::make_shared<const Turn>(*std::move(turn));
  }
  bool doomed = false;
  {
    const MutexLock lock(mu_);
    if (session == nullptr) {
      // Who was told to call again may do so with the id alone.
      if (!resumable || store_ == nullptr) return nullptr;
      session = std::make_shared<HeldSession>(tenant, NewSessionId());
      table_.Add(session);
      ++stats_.created;
    }
    session->request.reset();
    session->last_used = clock_.Now();
    // An interrupted one stays with its call, which parks it.
    if (resumable && store_ != nullptr) {
      session->busy = true;
    } else {
      doomed = LetGo(*session);
    }
    if (end.kept != nullptr) {
      session->kept = std::move(end.kept);
      session->resting = false;
      session->turn = std::move(ended);
      table_.Count(session);
    }
    SweepIfFull();
    changed_.NotifyAll();
  }
  if (doomed) DeleteDoomed(session);
  return session;
}

void SessionManager::Impl::ParkInterrupted(const std::shared_ptr<SessionUse>& use,
                                           StatusCallback done) {
  const SessionPtr session = static_cast<Use&>(*use).TakeInterrupted();
  if (session == nullptr) {
    return done(absl::UnavailableError("there is no store to park the session in"));
  }
  {
    const MutexLock lock(mu_);
    BeginPark(session, ParkMode::kOfCall);
  }
  StartPark(session, ParkMode::kOfCall, ParkLimit::kNone, Urgency::kCall,
            std::move(done));
}

}  // namespace goldfinch
