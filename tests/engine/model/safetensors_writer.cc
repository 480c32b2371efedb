#include "tests/engine/model/safetensors_writer.h"

#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

template <typename T>
void Append(std::string& bytes, T value) {
  char buffer[sizeof(T)];
  std::memcpy(buffer, &value, sizeof(T));
  bytes.append(buffer, sizeof(T));
}

// Finite values only.
std::uint16_t Bf16Bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::uint16_t F16Bits(float value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(static_cast<double>(value));
  if (magnitude >= 65520) return static_cast<std::uint16_t>(sign | 0x7c00);
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  // 1024 .. 2048 for normal values: the leading one carries into the exponent.
  const long fraction = std::lrint(std::ldexp(magnitude, 10 - exponent));
  return static_cast<std::uint16_t>(sign + ((exponent + 14) << 10) + fraction);
}

}  // namespace

std::string EncodeFloats(StoredType type, std::span<const float> values) {
  std::string bytes;
  for (const float value : values) {
    switch (type) {
      case StoredType::kBf16:
        Append(bytes, Bf16Bits(value));
        break;
      case StoredType::kF16:
        Append(bytes, F16Bits(value));
        break;
      case StoredType::kF32:
        Append(bytes, value);
        break;
      case StoredType::kI32:
        GOLDFINCH_CHECK(type != StoredType::kI32);
    }
  }
  return bytes;
}

std::string EncodeInts(std::span<const std::int32_t> values) {
  std::string bytes;
  for (const std::int32_t value : values) Append(bytes, value);
  return bytes;
}

StoredTensor ViewOf(const TensorToWrite& tensor) {
  return StoredTensor{.type = tensor.type,
                      .shape = tensor.shape,
                      .data = reinterpret_cast<const std::byte*>(tensor.bytes.data()),
                      .size = tensor.bytes.size()};
}

std::string RawSafetensors(std::string_view header, std::string_view data) {
  std::string content;
  Append(content, static_cast<std::uint64_t>(header.size()));
  content.append(header).append(data);
  return content;
}

std::string SafetensorsBytes(std::span<const TensorToWrite> tensors,
                             const WriterOptions& options) {
  std::vector<std::string> entries;
  if (!options.metadata_json.empty()) {
    entries.push_back(absl::StrCat("\"__metadata__\":", options.metadata_json));
  }
  std::string data;
  for (const TensorToWrite& tensor : tensors) {
    const std::size_t begin = data.size();
    data += tensor.bytes;
    entries.push_back(
        absl::StrCat("\"", tensor.name, "\":{\"dtype\":\"", StoredTypeName(tensor.type),
                     "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                     "],\"data_offsets\":[", begin, ",", data.size(), "]}"));
  }
  const std::string header = absl::StrCat("{", absl::StrJoin(entries, ","), "}",
                                          std::string(options.padding, ' '));
  return RawSafetensors(header, data);
}

void WriteFile(const std::filesystem::path& path, std::string_view content) {
  // A new file each time: some file systems write a truncated one to disk at once.
  std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  GOLDFINCH_CHECK(file.good());
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  GOLDFINCH_CHECK(file.is_open());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TempFolder::TempFolder() {
  std::string name =
      (std::filesystem::temp_directory_path() / "goldfinch-XXXXXX").string();
  GOLDFINCH_CHECK(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace goldfinch
