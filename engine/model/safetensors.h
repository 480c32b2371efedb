// A .safetensors file, mapped into memory and checked before anyone reads it.
//
// The file is untrusted: Open refuses whatever is not exactly a header followed by
// tensors that lie side by side and fill the rest of the file. After that, data and
// size of every tensor are inside the mapping and agree with its type and shape.
//
// The file must not be truncated or rewritten while it is open: a mapping shows such
// changes, and pages that vanish end the process with SIGBUS. Replace, never rewrite.
//
// Threads: everything is constant after Open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/stored_tensor.h"

namespace goldfinch {

class SafetensorsFile {
 public:
  using TensorMap = std::map<std::string, StoredTensor, std::less<>>;

  static constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

  // The error is one line: `model.safetensors: what is wrong`.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  // The file's name without its folder, for messages.
  const std::string& name() const { return name_; }
  // In the order of their names, whatever the order in the file.
  const TensorMap& tensors() const { return tensors_; }
  // Null when there is no such tensor.
  const StoredTensor* Find(std::string_view name) const;

 private:
  SafetensorsFile(std::string name, std::span<const std::byte> mapping);

  const std::string name_;
  const std::span<const std::byte> mapping_;
  TensorMap tensors_;
};

}  // namespace goldfinch
