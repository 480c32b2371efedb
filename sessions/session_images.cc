// Copies of what sessions are, on their way to the store or to a client, and the memory
// they may take together.
#include <utility>
#include <vector>

#include "sessions/session_manager_impl.h"

namespace goldfinch {

bool SessionManager::Impl::HasImageRoom(std::int64_t bytes) const {
  return image_bytes_ == 0 || image_bytes_ + bytes <= options_.max_image_bytes;
}

// In turn: those that need little would else pass one that needs much for ever.
void SessionManager::Impl::WithImage(const std::string& tenant,
                                     std::shared_ptr<KeptPrefix> kept, ImageWork work,
                                     Urgency urgency, WithoutRoom otherwise) {
  const std::int64_t bytes =
      kept->length() *
      (engine_.info().key_bytes + static_cast<std::int64_t>(sizeof(TokenId)));
  ImageCopy copy{tenant, std::move(kept), bytes, std::move(work), urgency};
  {
    const MutexLock lock(mu_);
    if (waiting_copies_.empty() && HasImageRoom(bytes)) {
      image_bytes_ += bytes;
      ++under_way_;
    } else if (otherwise == WithoutRoom::kWait) {
      ++under_way_;
      return waiting_copies_.push_back(std::move(copy));
    } else {
      copy.kept = nullptr;
    }
  }
  if (copy.kept != nullptr) return CopyImage(std::move(copy));
  Async(
      tenant,
      [work = std::move(copy.work)] {
        work(absl::ResourceExhaustedError(
            "too many sessions are being copied; the server has no room for more"));
      },
      urgency);
}

void SessionManager::Impl::CopyImage(ImageCopy copy) {
  std::shared_ptr<KeptPrefix> kept = std::move(copy.kept);
  const bool empty = kept->length() == 0;
  scheduler_.GetImage(std::move(kept), [this, empty, copy = std::move(copy)](auto image) {
    Async(
        copy.tenant,
        [this, empty, copy, image = std::move(image)]() mutable {
          if (image == nullptr && !empty) {
            copy.work(absl::UnavailableError(
                "the server is shutting down, or its device has failed"));
          } else {
            copy.work(std::move(image));
          }
          FreeImageRoom(copy.bytes);
        },
        copy.urgency);
    const MutexLock lock(mu_);
    --under_way_;
    changed_.NotifyAll();
  });
}

void SessionManager::Impl::FreeImageRoom(std::int64_t bytes) {
  std::vector<ImageCopy> next;
  {
    const MutexLock lock(mu_);
    image_bytes_ -= bytes;
    while (!waiting_copies_.empty() && HasImageRoom(waiting_copies_.front().bytes)) {
      image_bytes_ += waiting_copies_.front().bytes;
      next.push_back(std::move(waiting_copies_.front()));
      waiting_copies_.pop_front();
    }
  }
  for (ImageCopy& copy : next) CopyImage(std::move(copy));
}

}  // namespace goldfinch
