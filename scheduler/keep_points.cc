#include "scheduler/keep_points.h"

#include <algorithm>
#include <set>

#include "scheduler/prefix_cache.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kWorthKeeping = PrefixCache::kMinTokens;
constexpr std::int64_t kLadderPrompt = 512;  // shorter prompts have none
constexpr std::int64_t kFirstRung = 64;      // before the end
constexpr std::int64_t kRungGrowth = 4;

}  // namespace

std::vector<std::int64_t> KeepPoints(const PromptShape& prompt, std::int64_t interval) {
  std::set<std::int64_t> points;
  // The most useful first: a point does not come where another one does its work.
  const auto add = [&](std::int64_t point) {
    point = point / prompt.grid * prompt.grid;
    if (point < prompt.begin + kWorthKeeping || point >= prompt.end) return;
    const auto near = points.upper_bound(point - kWorthKeeping);
    if (near != points.end() && *near < point + kWorthKeeping) return;
    points.insert(point);
  };
  // A prompt that was seen whole will come again: its last token is fed each time, for
  // the next logits.
  add(std::min(prompt.shared, prompt.end - 1));
  if (prompt.grid > 1) add(prompt.end - 1);
  if (prompt.end - prompt.begin >= kLadderPrompt) {
    for (std::int64_t back = kFirstRung; back < interval; back *= kRungGrowth) {
      add(prompt.end - back);
    }
    for (std::int64_t at = (prompt.begin / interval + 1) * interval; at < prompt.end;
         at += interval) {
      add(at);
    }
  }
  return {points.begin(), points.end()};
}

}  // namespace goldfinch
