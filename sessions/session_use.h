// One call's hold on a session: the inside of SessionUse (session_manager.h).
//
// Threads: any.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/sync/mutex.h"
#include "sessions/session_manager_impl.h"

namespace goldfinch {

class SessionManager::Impl::Use final : public SessionUse,
                                        public std::enable_shared_from_this<Use> {
 public:
  // Without a session: one is made of what is interrupted.
  Use(std::shared_ptr<Impl> impl, std::string tenant)
      : impl_(std::move(impl)),
        tenant_(std::move(tenant)),
        kept_(KeptPrefix::Make({}, nullptr)) {}
  Use(std::shared_ptr<Impl> impl, const HeldSession& held, SessionPtr session)
      : impl_(std::move(impl)),
        tenant_(held.tenant),
        kept_(held.kept),
        turn_(held.turn),
        numerics_changed_(held.numerics_changed),
        session_(std::move(session)) {}
  ~Use() override {
    Release();
    // Nobody parked it: it stays, for the next call or the end.
    if (interrupted_ && !parking_) impl_->Release(session_);
  }

  std::string id() const override {
    const MutexLock lock(mu_);
    return session_ == nullptr ? "" : session_->id;
  }
  void Release() override {
    SessionPtr session;
    {
      const MutexLock lock(mu_);
      if (std::exchange(over_, true)) return;
      session = session_;
    }
    if (session != nullptr) impl_->Release(session);
  }
  const std::shared_ptr<KeptPrefix>& kept() const override { return kept_; }
  const std::shared_ptr<const Turn>& turn() const override { return turn_; }
  bool numerics_changed() const override { return numerics_changed_; }

  std::function<void(RequestEnd)> OnEnd(std::optional<Turn> turn) override {
    return [self = shared_from_this(), turn = std::move(turn)](RequestEnd end) mutable {
      self->Finish(std::move(turn), std::move(end));
    };
  }
  void SetRequest(RequestId id) override {
    const MutexLock lock(mu_);
    if (!over_ && session_ != nullptr) impl_->SetRequest(session_, id);
  }
  bool interrupted() const override {
    const MutexLock lock(mu_);
    return interrupted_;
  }
  SessionPtr session() const {
    const MutexLock lock(mu_);
    return session_;
  }
  // The session, for who parks what was interrupted; once.
  SessionPtr TakeInterrupted() {
    const MutexLock lock(mu_);
    return interrupted_ && !std::exchange(parking_, true) ? session_ : nullptr;
  }

 private:
  void Finish(std::optional<Turn> turn, RequestEnd end) {
    const MutexLock lock(mu_);
    over_ = true;
    // Half a prompt that generates nothing is not resumed.
    if (end.interrupted && !turn.has_value()) end.kept = nullptr;
    interrupted_ = end.interrupted && end.kept != nullptr && impl_->has_store();
    session_ = impl_->Finish(session_, tenant_, std::move(turn), std::move(end));
  }

  const std::shared_ptr<Impl> impl_;
  const std::string tenant_;
  const std::shared_ptr<KeptPrefix> kept_;
  const std::shared_ptr<const Turn> turn_;
  const bool numerics_changed_ = false;

  mutable Mutex mu_;  // before the manager's
  SessionPtr session_ ABSL_GUARDED_BY(mu_);
  bool over_ ABSL_GUARDED_BY(mu_) = false;
  bool interrupted_ ABSL_GUARDED_BY(mu_) = false;
  bool parking_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace goldfinch
