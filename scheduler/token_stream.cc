#include "scheduler/token_stream.h"

#include <algorithm>
#include <utility>

namespace goldfinch {

TokenStream::TokenStream(std::int64_t capacity, std::function<void()> on_room)
    : capacity_(capacity), on_room_(std::move(on_room)) {}

void TokenStream::Push(StreamEvent event, TimePoint now) {
  Callback ready;
  {
    MutexLock lock(mu_);
    if (ended_) return;
    if (!HoldsSomething()) {
      ready = BeginReady();
      oldest_push_ = now;
    }
    if (event.kind == StreamEvent::Kind::kToken) ++tokens_held_;
    events_.push_back(std::move(event));
    changed_.NotifyAll();
  }
  Run(ready);
}

void TokenStream::End(const absl::Status& status) {
  Callback ready;
  {
    MutexLock lock(mu_);
    if (ended_) return;
    if (!HoldsSomething()) ready = BeginReady();
    ended_ = true;
    room_wanted_ = false;
    // A status of its own: several requests end by copies of one, whose reference count
    // would pass between threads inside the packaged Abseil, where TSan cannot see it.
    end_.emplace(status.code(), status.message());
    changed_.NotifyAll();
  }
  Run(ready);
}

bool TokenStream::HasRoom(std::int64_t count) const {
  MutexLock lock(mu_);
  const bool has_room = tokens_held_ == 0 || tokens_held_ + count <= capacity_;
  if (!has_room) room_wanted_ = true;
  return has_room;
}

bool TokenStream::Fits(std::int64_t count) const {
  MutexLock lock(mu_);
  return tokens_held_ + count <= capacity_;
}

TokenStream::Batch TokenStream::Take() {
  Batch batch;
  bool made_room = false;
  {
    MutexLock lock(mu_);
    batch = TakeHeld();
    made_room = std::exchange(room_wanted_, false);
  }
  if (made_room && on_room_) on_room_();
  return batch;
}

void TokenStream::NoteReading(TimePoint now) {
  MutexLock lock(mu_);
  if (!events_.empty()) oldest_push_ = now;
}

TokenStream::Batch TokenStream::WaitAndTake(TimePoint deadline) {
  {
    MutexLock lock(mu_);
    // Once the end has been taken nothing can come any more.
    while (!HoldsSomething() && !ended_) {
      if (!changed_.WaitUntil(mu_, deadline)) break;
    }
  }
  return Take();
}

void TokenStream::SetReadyCallback(std::function<void()> ready) {
  Callback call;
  {
    MutexLock lock(mu_);
    ready_ = nullptr;
    while (CalledElsewhere()) changed_.Wait(mu_);
    if (!ready) return;
    ready_ = std::make_shared<const std::function<void()>>(std::move(ready));
    if (HoldsSomething()) call = BeginReady();
  }
  Run(call);
}

std::optional<TimePoint> TokenStream::waiting_since() const {
  MutexLock lock(mu_);
  if (events_.empty()) return std::nullopt;
  return oldest_push_;
}

bool TokenStream::HoldsSomething() const { return !events_.empty() || end_.has_value(); }

TokenStream::Batch TokenStream::TakeHeld() {
  Batch batch;
  batch.events = std::exchange(events_, {});
  batch.end = std::exchange(end_, std::nullopt);
  tokens_held_ = 0;
  return batch;
}

bool TokenStream::CalledElsewhere() const {
  const std::thread::id self = std::this_thread::get_id();
  return std::ranges::any_of(calling_, [&](std::thread::id id) { return id != self; });
}

TokenStream::Callback TokenStream::BeginReady() {
  if (ready_) calling_.push_back(std::this_thread::get_id());
  return ready_;
}

void TokenStream::Run(const Callback& ready) {
  if (!ready) return;
  (*ready)();
  MutexLock lock(mu_);
  calling_.erase(std::ranges::find(calling_, std::this_thread::get_id()));
  changed_.NotifyAll();
}

}  // namespace goldfinch
