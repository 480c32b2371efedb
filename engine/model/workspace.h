// Device memory a forward pass works in: taken once, when the model is made.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/check.h"
#include "engine/model/config.h"

namespace goldfinch {

// Hands out matrices that live as long as it does.
class DeviceArena {
 public:
  explicit DeviceArena(Backend& backend) : backend_(backend) {}

  Matrix Take(std::int64_t rows, std::int64_t cols, DType type) {
    return {TakeBytes(rows * cols * SizeOf(type)), type, rows, cols, cols};
  }
  // Of rows that products read side by side: rows a multiple of 4 KB apart would share
  // one set of a processor's first cache, so the stride avoids that.
  Matrix TakeInput(std::int64_t rows, std::int64_t cols, DType type) {
    const std::int64_t line = 64 / SizeOf(type);
    const std::int64_t lines = (cols + line - 1) / line;
    Matrix m = Take(rows, (lines % 2 == 0 ? lines + 1 : lines) * line, type);
    m.cols = cols;
    return m;
  }
  void* TakeBytes(std::int64_t bytes) {
    memory_.push_back(backend_.Allocate(bytes));
    bytes_ += bytes;
    return memory_.back()->data();
  }
  Backend& backend() const { return backend_; }
  std::int64_t bytes() const { return bytes_; }  // handed out

 private:
  Backend& backend_;
  std::int64_t bytes_ = 0;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
};

// A short array that the host fills and ops read: token ids, row indices, slots.
template <typename T>
class StepArray {
 public:
  StepArray() = default;
  StepArray(DeviceArena& arena, std::int64_t capacity)
      : backend_(&arena.backend()),
        capacity_(static_cast<std::size_t>(capacity)),
        device_(static_cast<T*>(
            arena.TakeBytes(capacity * static_cast<std::int64_t>(sizeof(T))))) {
    host_.reserve(capacity_);
  }

  void Clear() { host_.clear(); }
  void Push(T value) {
    GOLDFINCH_CHECK(host_.size() < capacity_);
    host_.push_back(value);
  }
  std::int64_t size() const { return static_cast<std::int64_t>(host_.size()); }
  bool Full() const { return host_.size() == capacity_; }
  std::span<const T> host() const { return host_; }

  void Upload() {
    backend_->CopyToDevice(device_, host_.data(),
                           size() * static_cast<std::int64_t>(sizeof(T)));
  }
  const T* device() const { return device_; }

 private:
  Backend* backend_ = nullptr;
  std::size_t capacity_ = 0;
  std::vector<T> host_;
  T* device_ = nullptr;
};

// What layers write between their inputs and outputs. Sized for `max_rows` rows; a layer
// uses the first rows of each.
struct Workspace {
  Workspace(DeviceArena& arena, const ModelConfig& config, DType type,
            std::int64_t max_rows, std::int64_t max_mix_width);

  // Float32.
  Matrix cur, diff;         // [rows, D] after LN1, and how far its predecessor is from it
  Matrix r, k, w, y, gate;  // [rows, A]
  Matrix v;                 // [rows, A], v2 of the same rows behind them
  // Inputs of products, in the compute type.
  Matrix mixed[5];  // [rows, D]; the third as v
  Matrix low[2];    // [rows, width] inside two low-rank pairs
  Matrix mix_in;    // [rows, width] z of a time mix
  Matrix normed;    // [rows, A]
  Matrix ffn;       // [rows, F]
};

}  // namespace goldfinch
