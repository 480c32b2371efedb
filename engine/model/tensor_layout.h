// The tensors a config asks for: names and shapes of the published checkpoints.
//
// One list says what a loader must find and what a writer of models has to write; the
// order is the order of the authors' code, so a low-rank pair's w2 follows its w1.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/model/config.h"

namespace goldfinch {

struct ExpectedTensor {
  std::string name;
  // For a vector, [n]; files may also store [1, 1, n].
  std::vector<std::int64_t> shape = {};
  // False: no computation of this config reads it, and checkpoints may leave it out.
  bool required = true;
  // Low-rank pairs: shape[width_axis] is width_factor times the inner width. The width
  // in `shape` is the published one; any positive width may be stored, the same in both
  // of a pair. -1: nothing about the shape is free.
  std::int32_t width_axis = -1;
  std::int64_t width_factor = 1;
};

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

// "blocks.3.att.key.weight" from 3 and "att.key.weight".
std::string LayerTensorName(std::int32_t layer, const std::string& suffix);

// Whether a stored shape is the expected one. When the width is free, `width` receives
// the stored one.
bool ShapeMatches(const ExpectedTensor& expected, std::span<const std::int64_t> stored,
                  std::int64_t* width);

}  // namespace goldfinch
