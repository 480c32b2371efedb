#include "scheduler/prefix_keeper.h"

#include <iterator>
#include <optional>

#include "engine/check.h"

namespace goldfinch {

PrefixKeeper::PrefixKeeper(Engine& engine, std::function<void(const KeptPrefix&)> forget,
                           std::function<void()> on_release)
    : engine_(engine),
      forget_(std::move(forget)),
      released_(std::make_shared<Released>(std::move(on_release))) {}

// The engine may go on without this keeper; nothing of it may stay there.
PrefixKeeper::~PrefixKeeper() {
  for (const auto& [use, weak] : std::exchange(by_use_, {})) {
    if (const std::shared_ptr<KeptPrefix> prefix = weak.lock()) {
      engine_.Drop(std::exchange(prefix->id_, PrefixId::kNone));
      prefix->place_ = KeptPrefix::Place::kHost;
    }
  }
  Collect();
}

void PrefixKeeper::Attach(const std::shared_ptr<KeptPrefix>& prefix, PrefixId id) {
  prefix->id_ = id;
  prefix->last_use_ = ++last_use_;
  prefix->place_ = KeptPrefix::Place::kDevice;
  prefix->host_bytes_ = engine_.info().state_bytes + prefix->history_bytes();
  prefix->release_ = [released = released_](PrefixId left, std::uint64_t last_use) {
    {
      const MutexLock lock(released->mu);
      released->ids.emplace_back(left, last_use);
    }
    released->on_release();
  };
  by_use_.emplace(prefix->last_use_, prefix);
}

void PrefixKeeper::Detach(KeptPrefix& prefix) {
  engine_.Drop(std::exchange(prefix.id_, PrefixId::kNone));
  by_use_.erase(prefix.last_use_);
  prefix.place_ = KeptPrefix::Place::kHost;
}

void PrefixKeeper::Touch(const std::shared_ptr<KeptPrefix>& prefix) {
  by_use_.erase(prefix->last_use_);
  prefix->last_use_ = ++last_use_;
  by_use_.emplace(prefix->last_use_, prefix);
}

void PrefixKeeper::Collect() {
  std::vector<std::pair<PrefixId, std::uint64_t>> ids;
  {
    const MutexLock lock(released_->mu);
    ids.swap(released_->ids);
  }
  for (const auto& [id, last_use] : ids) {
    engine_.Drop(id);
    by_use_.erase(last_use);
  }
}

void PrefixKeeper::BeginStep(std::int64_t copy_bytes) {
  copy_bytes_left_ = copy_bytes;
  Collect();
}

std::shared_ptr<KeptPrefix> PrefixKeeper::Keep(SequenceId sequence, std::int64_t length,
                                               std::vector<TokenId> history,
                                               KeptPrefix::Origin origin) {
  GOLDFINCH_CHECK(history.empty() || length < std::ssize(history));
  auto prefix = std::make_shared<KeptPrefix>(KeptPrefix::Private(), std::move(history),
                                             length, origin);
  Attach(prefix, engine_.Keep(sequence));
  copy_bytes_left_ -= engine_.info().state_bytes;
  return prefix;
}

std::int64_t PrefixKeeper::PagesToOpen(const KeptPrefix& base,
                                       std::int64_t max_tokens) const {
  const EngineInfo& info = engine_.info();
  if (base.length_ == 0) return info.PagesFor(max_tokens);
  // The base's partly filled page is copied, so it must be there beside the copy.
  const bool partial = info.num_pages > 0 && base.length_ % info.page_tokens != 0;
  return (partial ? 1 : 0) + (base.id_ == PrefixId::kNone
                                  ? info.PagesFor(max_tokens)
                                  : engine_.PagesToOpen(base.id_, max_tokens));
}

PrefixKeeper::Room PrefixKeeper::MakeRoom(const std::shared_ptr<KeptPrefix>& base,
                                          std::int64_t pages) {
  const bool load = base != nullptr && base->length_ > 0 && base->id_ == PrefixId::kNone;
  // Lost with the device: OpenFrom says so.
  if (load && base->image_ == nullptr) return Room::kMade;
  if (load) pages += engine_.info().PagesFor(base->length_);
  Collect();
  while (free_pages() < pages) {
    if (copy_bytes_left_ <= 0 || !EvictOne(base.get())) return Room::kNotNow;
    Collect();
  }
  if (load) {
    if (copy_bytes_left_ <= 0) return Room::kNotNow;
    copy_bytes_left_ -= base->image_->bytes();
    const absl::StatusOr<PrefixId> id = engine_.Load(*base->image_);
    GOLDFINCH_CHECK(id.ok());
    base->image_.reset();
    Attach(base, *id);
  } else if (base != nullptr && base->id_ != PrefixId::kNone) {
    Touch(base);
  }
  return Room::kMade;
}

// False when what is left is just being let go by its last owner on another thread.
bool PrefixKeeper::EvictOne(const KeptPrefix* except) {
  bool being_let_go = false;
  for (const auto& [use, weak] : by_use_) {
    const std::shared_ptr<KeptPrefix> prefix = weak.lock();
    being_let_go = being_let_go || prefix == nullptr;
    if (prefix == nullptr) continue;
    if (prefix.get() == except) continue;
    forget_(*prefix);
    // The last owner: no other thread can make another one of it.
    if (prefix.use_count() > 1) MoveToHost(*prefix);
    return true;
  }
  GOLDFINCH_CHECK(being_let_go);
  return false;
}

absl::StatusOr<SequenceId> PrefixKeeper::OpenFrom(KeptPrefix& base,
                                                  const SequenceSpec& spec,
                                                  std::span<const TokenId> history) {
  if (base.id_ == PrefixId::kNone)
    return absl::InternalError("what was kept was lost with the device");
  return engine_.OpenFrom(base.id_, spec, history);
}

std::shared_ptr<const PrefixImage> PrefixKeeper::ImageOf(KeptPrefix& prefix) {
  if (prefix.id_ == PrefixId::kNone) return prefix.image_;
  auto image = std::make_shared<PrefixImage>();
  const absl::Status status = engine_.Save(prefix.id_, *image);
  copy_bytes_left_ -= image->bytes();
  if (!status.ok()) return nullptr;
  return image;
}

void PrefixKeeper::MoveToHost(KeptPrefix& prefix) {
  if (prefix.id_ == PrefixId::kNone) return;
  prefix.image_ = ImageOf(prefix);
  Detach(prefix);
  prefix.host_bytes_ =
      prefix.history_bytes() + (prefix.image_ != nullptr ? prefix.image_->bytes() : 0);
}

}  // namespace goldfinch
