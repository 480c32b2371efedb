// Little-endian integers, strings and lists to bytes and back.
//
// ByteReader: once something did not fit, ok() is false for good and everything read is
// zero or empty. A count is compared with the bytes left before anything is allocated.
// One thread at a time each.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace goldfinch {

// Arrays of integers are copied whole.
static_assert(std::endian::native == std::endian::little);

class ByteWriter {
 public:
  template <std::integral T>
  void Int(T value) {
    const auto bits = static_cast<std::uint64_t>(value);
    char raw[sizeof(T)];
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      raw[i] = static_cast<char>((bits >> (8 * i)) & 0xff);
    }
    Raw({raw, sizeof(T)});
  }
  void Float(float value) { Int(std::bit_cast<std::uint32_t>(value)); }
  void Bool(bool value) { Int(std::uint8_t{value}); }
  void Raw(std::string_view bytes) { out_.append(bytes); }
  void String(std::string_view text) {
    Int(std::uint64_t{text.size()});
    Raw(text);
  }
  template <std::integral T>
  void Ints(const std::vector<T>& values) {
    Int(std::uint64_t{values.size()});
    Raw({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
  }

  const std::string& bytes() const { return out_; }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : left_(bytes) {}

  template <std::integral T>
  T Int() {
    const std::string_view raw = Raw(sizeof(T));
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < raw.size(); ++i) {
      bits |= std::uint64_t{static_cast<unsigned char>(raw[i])} << (8 * i);
    }
    return static_cast<T>(bits);
  }
  // Finite: no field of a snapshot may be anything else.
  float Float() {
    const auto value = std::bit_cast<float>(Int<std::uint32_t>());
    if (!std::isfinite(value)) Fail();
    return ok_ ? value : 0.0f;
  }
  bool Bool() {
    const auto value = Int<std::uint8_t>();
    if (value > 1) Fail();
    return ok_ && value == 1;
  }
  std::string_view Raw(std::uint64_t size) {
    if (size > left_.size()) Fail();
    if (!ok_) return {};
    const std::string_view raw = left_.substr(0, size);
    left_.remove_prefix(size);
    return raw;
  }
  std::string String() { return std::string(Raw(Int<std::uint64_t>())); }
  // How many elements follow, each of `min_bytes` or more.
  std::uint64_t Count(std::uint64_t min_bytes) {
    const auto count = Int<std::uint64_t>();
    if (count > left_.size() / min_bytes) Fail();
    return ok_ ? count : 0;
  }
  template <std::integral T>
  std::vector<T> Ints() {
    return Ints<T>(Count(sizeof(T)));
  }
  // `count` is what Count has returned.
  template <std::integral T>
  std::vector<T> Ints(std::uint64_t count) {
    std::vector<T> values(count);
    const std::string_view raw = Raw(count * sizeof(T));
    if (!raw.empty()) std::memcpy(values.data(), raw.data(), raw.size());
    return values;
  }

  void Fail() {
    ok_ = false;
    left_ = {};
  }
  bool ok() const { return ok_; }
  std::size_t left() const { return left_.size(); }

 private:
  std::string_view left_;
  bool ok_ = true;
};

}  // namespace goldfinch
