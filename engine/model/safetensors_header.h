// The JSON header of a .safetensors file, parsed and checked without the file.
//
// Idea: the header is untrusted and may have 100 MB, so it is read event by event by a
// machine that knows the only shape it may have; nothing else is ever stored.
//
// Threads: a pure function.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/stored_tensor.h"

namespace goldfinch {

// One tensor; [begin, end) counts bytes from the end of the header.
struct TensorEntry {
  std::string name;
  StoredType type = StoredType::kF32;
  std::vector<std::int64_t> shape = {};
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

inline constexpr std::size_t kMaxTensorRank = 8;

// The entries in the order of their bytes. They lie side by side from 0 to `data_bytes`
// and each is as long as its type and shape ask for. Anything else is an error that
// says what, without the name of the file.
absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                std::uint64_t data_bytes);

// A name from an untrusted file for a message: one printable line of bounded length.
std::string PrintableName(std::string_view name);

}  // namespace goldfinch
