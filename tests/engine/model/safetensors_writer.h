// Writes .safetensors files for tests, well-formed ones from tensors and arbitrary ones
// from a header and data; and a folder to put them in.
//
// Threads: none; every function stands alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/stored_tensor.h"

namespace goldfinch {

struct TensorToWrite {
  std::string name;
  StoredType type = StoredType::kF32;
  std::vector<std::int64_t> shape = {};
  std::string bytes = {};  // little-endian elements
};

struct WriterOptions {
  std::string metadata_json = {};  // the value of __metadata__; empty: none
  // Spaces after the header. With 0 to 7 of them data lands on every alignment.
  std::size_t padding = 0;
};

// Elements in a type of floating point, rounded to nearest even.
std::string EncodeFloats(StoredType type, std::span<const float> values);
std::string EncodeInts(std::span<const std::int32_t> values);

// A view of the tensor's bytes, as a file would give it.
StoredTensor ViewOf(const TensorToWrite& tensor);

// The header's length, the header and the data, whatever they are.
std::string RawSafetensors(std::string_view header, std::string_view data);

// A well-formed file with the tensors in the given order.
std::string SafetensorsBytes(std::span<const TensorToWrite> tensors,
                             const WriterOptions& options = {});

void WriteFile(const std::filesystem::path& path, std::string_view content);
std::string ReadFile(const std::filesystem::path& path);

// A fresh folder that goes away with its owner.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace goldfinch
