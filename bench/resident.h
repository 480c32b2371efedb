// Many sessions in device memory at once: imported copies of a few, which share no page.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "engine/model_engine.h"

namespace goldfinch {

struct Residents {
  std::int64_t sessions = 0;     // resident at once, each of which has answered
  double seconds_to_load = 0;    // of one, the median
  double seconds_to_answer = 0;  // a token each: the whole past is expanded; the median
};

// Loads `count` copies of the images, by turns, and lets each sample one token after
// `next`, greedily. INTERNAL when copies of one image differ in that, RESOURCE_EXHAUSTED
// when the engine has no room for all of them.
absl::StatusOr<Residents> MeasureResidents(ModelEngine& engine,
                                           std::span<const PrefixImage> images,
                                           std::int64_t count, TokenId next);

}  // namespace goldfinch
