#include "engine/model/dtype_names.h"

#include <cstddef>
#include <span>

#include "engine/check.h"

namespace goldfinch {
namespace {

template <typename Type>
struct Named {
  Type type;
  const char* name;
};

constexpr Named<ComputeType> kComputeTypes[] = {{ComputeType::kF32, "f32"},
                                                {ComputeType::kBf16, "bf16"}};
// Those of compressed keys are the first of them.
constexpr Named<StorageType> kStorageTypes[] = {{StorageType::kCompute, "auto"},
                                                {StorageType::kInt8, "int8"},
                                                {StorageType::kFp8, "fp8"}};
constexpr std::size_t kCacheTypes = 2;

template <typename Type>
std::vector<std::string> Names(std::span<const Named<Type>> table) {
  std::vector<std::string> names;
  for (const Named<Type>& entry : table) names.emplace_back(entry.name);
  return names;
}

template <typename Type>
const char* NameOf(std::span<const Named<Type>> table, Type type) {
  for (const Named<Type>& entry : table)
    if (entry.type == type) return entry.name;
  GOLDFINCH_CHECK(false);
}

template <typename Type>
std::optional<Type> Parse(std::span<const Named<Type>> table, std::string_view name) {
  for (const Named<Type>& entry : table)
    if (entry.name == name) return entry.type;
  return std::nullopt;
}

}  // namespace

std::vector<std::string> ComputeDtypes() { return Names<ComputeType>(kComputeTypes); }
std::vector<std::string> WeightDtypes() { return Names<StorageType>(kStorageTypes); }
std::vector<std::string> CacheDtypes() {
  return Names<StorageType>(std::span(kStorageTypes).first(kCacheTypes));
}

const char* DtypeName(ComputeType type) {
  return NameOf<ComputeType>(kComputeTypes, type);
}
const char* DtypeName(StorageType type) {
  return NameOf<StorageType>(kStorageTypes, type);
}

std::optional<ComputeType> ParseComputeDtype(std::string_view name) {
  return Parse<ComputeType>(kComputeTypes, name);
}
std::optional<StorageType> ParseStorageDtype(std::string_view name) {
  return Parse<StorageType>(kStorageTypes, name);
}

}  // namespace goldfinch
