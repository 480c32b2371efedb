// Most that one request may ask for. The proto states each of these bounds; the server
// holds calls to them, and snapshots, which may have been made by hand, are held to them
// when they are read: what is beyond would take memory that nobody counts.
#pragma once

#include "engine/sampling.h"

namespace goldfinch {

inline constexpr double kMaxTemperature = 100;
inline constexpr double kMaxPenalty = 100;
inline constexpr double kMaxLogitBias = 100;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int kMaxStops = 16;
inline constexpr int kMaxStopBytes = 256;  // of each
inline constexpr int kMaxStopTokens = 64;
inline constexpr int kMaxLogprobs = kMaxTopTokens;
inline constexpr int kMaxCandidates = 16;
inline constexpr int kMaxPriority = 100;  // and at least its negative

}  // namespace goldfinch
