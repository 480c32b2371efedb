#include "server/memory_guard.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace goldfinch {
namespace {

// Memory does not fill faster than calls come in with it.
constexpr auto kBetweenLooks = std::chrono::milliseconds(50);
// What could be given back has just been.
constexpr auto kBetweenGivingBack = std::chrono::seconds(5);

// Short until there is so much room again, as a share of the limit; else it would be
// short and not short by turns.
constexpr std::int64_t kRoomShare = 50;

}  // namespace

MemoryGuard::MemoryGuard(std::int64_t limit, Memory memory, const Clock& clock)
    : limit_(limit), memory_(std::move(memory)), clock_(clock) {}

absl::Status MemoryGuard::Check() {
  const MutexLock lock(mu_);
  const TimePoint now = clock_.Now();
  if (now >= next_look_) Look(now);
  if (!short_) return absl::OkStatus();
  ++num_refused_;
  return absl::ResourceExhaustedError("the server is short of memory");
}

void MemoryGuard::Look(TimePoint now) {
  next_look_ = now + kBetweenLooks;
  const std::int64_t most = short_ ? limit_ - limit_ / kRoomShare : limit_;
  std::int64_t taken = memory_.taken();
  if (taken > most && now >= next_give_back_) {
    next_give_back_ = now + kBetweenGivingBack;
    memory_.give_back();
    taken = memory_.taken();
  }
  const bool is_short = taken > most;
  if (is_short == std::exchange(short_, is_short)) return;
  LogWarning(absl::StrCat(taken, " bytes of memory are taken; the limit is ", limit_,
                          is_short ? "; new work is refused"
                                   : "; new work is accepted again"));
}

}  // namespace goldfinch
