// The operator's options of an engine, checked and turned into what a Model takes.
//
// Threads: pure functions.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/model.h"
#include "engine/model_engine.h"

namespace goldfinch {

// Rows of logits computed at once, at least, however few sequences there are: 16 MiB at a
// vocabulary of 65,536.
inline constexpr std::int64_t kMinLogitRows = 64;

// INVALID_ARGUMENT for numbers out of range.
absl::Status CheckOptions(const ModelEngineOptions& options);

// Of options.max_step_tokens above 0. Pages and tiles that fit the byte limits, and
// kMinLogitRows; INVALID_ARGUMENT when not one page does.
absl::StatusOr<ModelLimits> LimitsOf(const ModelEngineOptions& options,
                                     const ModelConfig& config, DType type);

}  // namespace goldfinch
