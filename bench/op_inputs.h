// Inputs of single ops, in a backend's memory: for what is measured op by op.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "engine/backend/backend.h"

namespace goldfinch {

// Memory of a backend handed out piece by piece, gone with its owner.
class OpInputs {
 public:
  explicit OpInputs(Backend& backend) : backend_(backend) {}
  Backend& backend() const { return backend_; }

  void* Bytes(std::int64_t bytes) {
    memory_.push_back(backend_.Allocate(bytes));
    return memory_.back()->data();
  }
  template <typename T>
  T* Array(const std::vector<T>& values) {
    const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
    void* p = Bytes(bytes);
    backend_.CopyToDevice(p, values.data(), bytes);
    return static_cast<T*>(p);
  }
  // Normal ones, or all the same.
  Matrix Floats(std::int64_t rows, std::int64_t cols);
  Matrix Floats(std::int64_t rows, std::int64_t cols, float value);
  Matrix Halves(std::int64_t rows, std::int64_t cols) {
    return {.data = Bytes(rows * cols * 2),
            .type = DType::kBf16,
            .rows = rows,
            .cols = cols,
            .stride = cols};
  }
  // One sequence of all rows, a prompt, or every row one of its own.
  RowSpans Spans(std::int64_t rows, bool single);

  // Of so many rows, of width d.
  WkvArgs Wkv(std::int64_t rows, std::int64_t d, bool single);
  // One query each of sequences with contexts of their own, or with one that all have in
  // common, in pages of 64 that are expanded in bf16. Reads d * 4 bytes for each token of
  // them.
  enum class Pasts { kOwn, kShared };
  AttendArgs Attend(const std::vector<std::int64_t>& contexts, std::int64_t d,
                    Pasts pasts = Pasts::kOwn);

 private:
  Backend& backend_;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
};

}  // namespace goldfinch
