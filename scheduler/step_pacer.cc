#include "scheduler/step_pacer.h"

#include <algorithm>

namespace goldfinch {
namespace {

// By how much one step may change what the next one takes: down at once, since streams
// wait; up slowly, since one step may have been short by chance.
constexpr double kDown = 0.5, kUp = 1.25;

}  // namespace

StepPacer::StepPacer(std::int64_t most, std::chrono::nanoseconds target)
    : most_(static_cast<double>(most)),
      least_(static_cast<double>(std::min(most, kMinTokens))),
      target_(target),
      tokens_(most_) {}

void StepPacer::Note(std::int64_t fed_tokens, std::chrono::nanoseconds duration) {
  if (target_.count() == 0 || fed_tokens == 0 || duration.count() <= 0) return;
  const auto fed = static_cast<double>(fed_tokens);
  const double in_time =
      fed * static_cast<double>(target_.count()) / static_cast<double>(duration.count());
  // A step below its allowance that was in time shows only that a full one would take
  // longer. A very short one (the end of a prompt) shows nothing even when it was late:
  // its time went to other work.
  if (fed_tokens < prompt_tokens() && (duration <= target_ || fed < least_)) return;
  tokens_ = std::clamp(in_time, kDown * tokens_, kUp * tokens_);
  tokens_ = std::clamp(tokens_, least_, most_);
}

}  // namespace goldfinch
