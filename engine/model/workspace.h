// Device memory a forward pass works in: taken once, when the model is made.
#pragma once

#include <cstddef>
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
    return {.data = TakeBytes(rows * cols * SizeOf(type)),
            .type = type,
            .rows = rows,
            .cols = cols,
            .stride = cols};
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

// The short arrays that the host fills and the ops of a step read. They lie side by side
// on the device, each in a place of its own that never changes, so that what is filled
// before an op goes there in few copies.
class StepInputs {
 public:
  explicit StepInputs(DeviceArena& arena) : arena_(arena) {}

  // A place for `bytes`; before Take.
  std::int64_t Reserve(std::int64_t bytes);
  // Takes the memory for what was reserved.
  void Take();

  // Where the array at `place` is filled, and where ops read it; after Take.
  std::byte* host(std::int64_t place) { return host_.data() + place; }
  std::byte* device(std::int64_t place) const { return device_ + place; }

  // The first `bytes` of the array at `place` go along with the next Upload.
  void Stage(std::int64_t place, std::int64_t bytes);
  // Copies what was staged, behind the ops that were queued before.
  void Upload();

 private:
  struct Piece {
    std::int64_t begin, end;
  };
  DeviceArena& arena_;
  std::int64_t size_ = 0;
  std::vector<std::byte> host_;
  std::byte* device_ = nullptr;
  std::vector<Piece> staged_;
};

// One of them: token ids, row indices, slots.
template <typename T>
class StepArray {
 public:
  StepArray() = default;
  StepArray(StepInputs& inputs, std::int64_t capacity)
      : inputs_(&inputs),
        capacity_(capacity),
        place_(inputs.Reserve(capacity * kElement)) {}

  void Clear() { size_ = 0; }
  void Push(T value) {
    GOLDFINCH_CHECK(size_ < capacity_);
    data()[size_++] = value;
  }
  std::int64_t size() const { return size_; }
  std::span<const T> host() const { return {data(), static_cast<std::size_t>(size_)}; }
  const T* device() const { return reinterpret_cast<const T*>(inputs_->device(place_)); }
  // For an op that fills it in the host's place. No later Upload of the step copies what
  // lies between arrays before and behind this one if it is reserved first.
  T* filled_by_op() const { return reinterpret_cast<T*>(inputs_->device(place_)); }

  // See StepInputs::Stage.
  void Stage() { inputs_->Stage(place_, size_ * kElement); }

 private:
  static constexpr auto kElement = static_cast<std::int64_t>(sizeof(T));
  T* data() const { return reinterpret_cast<T*>(inputs_->host(place_)); }

  StepInputs* inputs_ = nullptr;
  std::int64_t capacity_ = 0;
  std::int64_t place_ = 0;
  std::int64_t size_ = 0;
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
  Matrix mixed[5];  // [rows, D]; the third is of x_v with, behind it, x_v2
  Matrix low[2];    // [rows, width] inside two low-rank pairs
  Matrix mix_in;    // [rows, width] z of a time mix
  Matrix normed;    // [rows, A]
  Matrix ffn;       // [rows, F]
};

}  // namespace goldfinch
