// The names of types, as operators give them to programs and as programs tell them.
//
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/config.h"

namespace goldfinch {

// What a flag may be, in the order of its help: "f32", "bf16" for the compute type;
// "auto", which is the compute type, "int8", "fp8" for the large matrices; the same but
// for fp8 for compressed keys.
std::vector<std::string> ComputeDtypes();
std::vector<std::string> WeightDtypes();
std::vector<std::string> CacheDtypes();

const char* DtypeName(ComputeType type);
const char* DtypeName(StorageType type);

// The type of that name; none, if it is no type's, as the empty one is.
std::optional<ComputeType> ParseComputeDtype(std::string_view name);
std::optional<StorageType> ParseStorageDtype(std::string_view name);

}  // namespace goldfinch
