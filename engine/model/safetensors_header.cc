#include "engine/model/safetensors_header.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace goldfinch {
namespace {

using Json = nlohmann::json;

constexpr char kMetadataName[] = "__metadata__";
constexpr std::size_t kMaxPrintedBytes = 120;

std::optional<StoredType> TypeFromName(const std::string& name) {
  for (const StoredType type :
       {StoredType::kBf16, StoredType::kF16, StoredType::kF32, StoredType::kI32}) {
    if (name == StoredTypeName(type)) return type;
  }
  return std::nullopt;
}

// Receives the parser's events. Every event either moves the machine on or ends the
// parse with a message; what a state does not expect is refused by Unexpected().
class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  std::vector<TensorEntry>& entries() { return entries_; }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected(); }
  bool boolean(bool) override { return Unexpected(); }
  bool number_integer(number_integer_t) override { return Unexpected(); }  // below 0
  bool number_float(number_float_t, const string_t&) override { return Unexpected(); }
  bool binary(binary_t&) override { return Unexpected(); }

  bool start_object(std::size_t) override {
    switch (at_) {
      case At::kStart:
        return GoTo(At::kName);
      case At::kMetadata:
        return GoTo(At::kMetadataKey);
      case At::kTensor:
        seen_type_ = seen_shape_ = false;
        num_offsets_ = -1;
        return GoTo(At::kField);
      default:
        return Unexpected();
    }
  }

  bool key(string_t& key) override {
    switch (at_) {
      case At::kName:
        return Name(key);
      case At::kMetadataKey:
        return GoTo(At::kMetadataValue);
      default:  // only kField is left: keys come inside objects alone
        return Field(key);
    }
  }

  bool end_object() override {
    switch (at_) {
      case At::kField:
        if (!seen_type_) return Fail("has no dtype");
        if (!seen_shape_) return Fail("has no shape");
        if (num_offsets_ < 0) return Fail("has no data_offsets");
        return GoTo(At::kName);
      case At::kMetadataKey:
        return GoTo(At::kName);
      default:
        return GoTo(At::kEnd);
    }
  }

  bool start_array(std::size_t) override {
    if (at_ == At::kShapeList) return GoTo(At::kShapeNumber);
    if (at_ == At::kOffsetsList) return GoTo(At::kOffsetsNumber);
    return Unexpected();
  }

  bool number_unsigned(number_unsigned_t value) override {
    TensorEntry* entry = entries_.empty() ? nullptr : &entries_.back();
    if (at_ == At::kShapeNumber) {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        return Fail(absl::StrCat("has a dimension of ", value));
      }
      if (entry->shape.size() == kMaxTensorRank) {
        return Fail(
            absl::StrCat("has more than ", kMaxTensorRank, " dimensions, the limit"));
      }
      entry->shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (at_ == At::kOffsetsNumber && num_offsets_ < 2) {
      (num_offsets_ == 0 ? entry->begin : entry->end) = value;
      ++num_offsets_;
      return true;
    }
    return Unexpected();
  }

  bool end_array() override {
    if (at_ == At::kOffsetsNumber && num_offsets_ != 2) return Unexpected();
    return GoTo(At::kField);
  }

  bool string(string_t& value) override {
    if (at_ == At::kMetadataValue) return GoTo(At::kMetadataKey);
    if (at_ != At::kType) return Unexpected();
    const std::optional<StoredType> type = TypeFromName(value);
    if (!type.has_value()) {
      return Fail(absl::StrCat("has dtype \"", PrintableName(value),
                               "\"; it must be BF16, F16, F32 or I32"));
    }
    entries_.back().type = *type;
    return GoTo(At::kField);
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error_ = absl::StrCat("the header is not JSON: it breaks at its byte ", position);
    return false;
  }

 private:
  // What comes next.
  enum class At {
    kStart,
    kName,  // of a tensor, or the end of the header
    kMetadata,
    kMetadataKey,
    kMetadataValue,
    kTensor,
    kField,  // of a tensor, or its end
    kType,
    kShapeList,
    kShapeNumber,
    kOffsetsList,
    kOffsetsNumber,
    kEnd,
  };

  bool GoTo(At next) {
    at_ = next;
    return true;
  }

  bool Fail(const std::string& why) {
    error_ = absl::StrCat("tensor ", PrintableName(entries_.back().name), " ", why);
    return false;
  }

  bool Name(const std::string& name) {
    if (!names_.insert(name).second) {
      error_ = absl::StrCat("the name ", PrintableName(name), " occurs twice");
      return false;
    }
    if (name == kMetadataName) return GoTo(At::kMetadata);
    entries_.push_back({.name = name});
    return GoTo(At::kTensor);
  }

  bool Field(const std::string& field) {
    if (field == "dtype") {
      if (std::exchange(seen_type_, true)) return Fail("has two fields dtype");
      return GoTo(At::kType);
    }
    if (field == "shape") {
      if (std::exchange(seen_shape_, true)) return Fail("has two fields shape");
      return GoTo(At::kShapeList);
    }
    if (field == "data_offsets") {
      if (std::exchange(num_offsets_, 0) >= 0) return Fail("has two fields data_offsets");
      return GoTo(At::kOffsetsList);
    }
    return Fail(absl::StrCat("has an unknown field ", PrintableName(field)));
  }

  bool Unexpected() {
    switch (at_) {
      case At::kTensor:
        return Fail("is not described by an object");
      case At::kType:
        return Fail("has a dtype that is not a string");
      case At::kShapeList:
      case At::kShapeNumber:
        return Fail("has a shape that is not a list of whole numbers from 0");
      case At::kOffsetsList:
      case At::kOffsetsNumber:
        return Fail("has data_offsets that are not two whole numbers from 0");
      case At::kMetadata:
      case At::kMetadataValue:
        error_ = "__metadata__ is not a map from strings to strings";
        return false;
      default:
        error_ = "the header is not a JSON object";
        return false;
    }
  }

  At at_ = At::kStart;
  std::vector<TensorEntry> entries_;
  std::set<std::string> names_;
  // Of the tensor being read; num_offsets_ is -1 until its field is seen.
  bool seen_type_ = false;
  bool seen_shape_ = false;
  int num_offsets_ = -1;
  std::string error_;
};

absl::Status CheckSize(const TensorEntry& entry, std::uint64_t data_bytes) {
  const auto refuse = [&entry](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", PrintableName(entry.name), " ", why));
  };
  std::uint64_t bytes = StoredTypeBytes(entry.type);
  for (const std::int64_t dimension : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dimension), &bytes)) {
      return refuse(absl::StrCat("has shape ", ShapeToString(entry.shape),
                                 ", whose bytes overflow 64 bits"));
    }
  }
  if (entry.end < entry.begin) {
    return refuse(
        absl::StrCat("has reversed data_offsets [", entry.begin, ", ", entry.end, "]"));
  }
  if (entry.end > data_bytes) {
    return refuse(
        absl::StrCat("ends at byte ", entry.end, " of the data, which has ", data_bytes));
  }
  if (entry.end - entry.begin != bytes) {
    return refuse(absl::StrCat("has ", entry.end - entry.begin, " bytes; ",
                               StoredTypeName(entry.type), " ",
                               ShapeToString(entry.shape), " takes ", bytes));
  }
  return absl::OkStatus();
}

absl::Status Hole(std::uint64_t begin, std::uint64_t end) {
  return absl::InvalidArgumentError(
      absl::StrCat("bytes ", begin, " to ", end, " of the data belong to no tensor"));
}

// `entries` are sorted by where they begin.
absl::Status CheckCover(const std::vector<TensorEntry>& entries,
                        std::uint64_t data_bytes) {
  std::uint64_t covered = 0;
  for (const TensorEntry& entry : entries) {
    if (entry.begin > covered) return Hole(covered, entry.begin);
    if (entry.begin < covered) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", PrintableName(entry.name), " overlaps another: bytes ",
                       entry.begin, " to ", covered, " of the data belong to both"));
    }
    covered = entry.end;
  }
  return covered == data_bytes ? absl::OkStatus() : Hole(covered, data_bytes);
}

}  // namespace

absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(
    std::string_view header, std::uint64_t data_bytes) {
  HeaderHandler handler;
  if (!Json::sax_parse(header, &handler)) {
    return absl::InvalidArgumentError(handler.error());
  }
  std::vector<TensorEntry> entries = std::move(handler.entries());
  for (const TensorEntry& entry : entries) {
    const absl::Status status = CheckSize(entry, data_bytes);
    if (!status.ok()) return status;
  }
  std::sort(entries.begin(), entries.end(),
            [](const TensorEntry& a, const TensorEntry& b) {
              return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
            });
  const absl::Status status = CheckCover(entries, data_bytes);
  if (!status.ok()) return status;
  return entries;
}

std::string PrintableName(std::string_view name) {
  const std::string shown(name.substr(0, kMaxPrintedBytes));
  return absl::StrCat(absl::CHexEscape(shown), shown.size() < name.size() ? "..." : "");
}

}  // namespace goldfinch
