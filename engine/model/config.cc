#include "engine/model/config.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <limits>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace goldfinch {
namespace {

using Json = nlohmann::json;

constexpr std::uintmax_t kMaxFileBytes = 1'000'000;
constexpr std::size_t kMaxShownBytes = 40;
constexpr std::int32_t kMaxInt = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t kFfnMultiple = 32;
constexpr std::int32_t kMaxLayers = 1024;
constexpr std::int32_t kMaxEmbd = 65536;
constexpr std::int32_t kMaxVocab = 1 << 20;
constexpr std::int32_t kMaxFfn = 1 << 20;
// What a positive scale may be: wide enough for any model, and powers and products of
// two stay far inside float64, squares inside float32.
constexpr double kMinScale = 1e-6;
constexpr double kMaxScale = 1e12;

absl::Status Refuse(const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", why));
}

// A value for a message. Lists and objects are not printed: they nest without limit.
std::string Shown(const Json& value) {
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  const std::string text =
      value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  return text.size() <= kMaxShownBytes
             ? text
             : absl::StrCat(text.substr(0, kMaxShownBytes), "...");
}

// Reads typed fields of one object. The first problem is kept and the reads after it
// return something harmless, so that a list of reads needs one check, at its end.
class FieldReader {
 public:
  // `prefix` stands before names in messages: "rope.".
  FieldReader(const Json& object, std::string prefix)
      : object_(object), prefix_(std::move(prefix)) {}

  const absl::Status& status() const { return status_; }

  std::int32_t Int(const char* name, std::int32_t min, std::int32_t max) {
    const std::string bounds =
        min == max ? absl::StrCat("it must be ", min)
                   : absl::StrCat("it must be a whole number from ", min, " to ", max);
    const Json* value = Find(name, bounds);
    if (value == nullptr) return min;
    // Whole numbers past int64 are unsigned, or floating point in the parser already.
    const bool fits = value->is_number_unsigned()
                          ? value->get<std::uint64_t>() <= static_cast<unsigned>(kMaxInt)
                          : value->is_number_integer();
    const std::int64_t number = fits ? value->get<std::int64_t>() : min - std::int64_t{1};
    if (number >= min && number <= max) return static_cast<std::int32_t>(number);
    Mismatch(name, *value, bounds);
    return min;
  }

  // `if_absent`: what a missing field means; without it the field is required.
  double Scale(const char* name, std::optional<double> if_absent = std::nullopt) {
    if (if_absent.has_value() && !object_.contains(name)) return *if_absent;
    const std::string bounds =
        absl::StrCat("it must be a number from ", kMinScale, " to ", kMaxScale);
    const Json* value = Find(name, bounds);
    if (value == nullptr) return 1;
    const double number = value->is_number() ? value->get<double>() : 0;
    if (number >= kMinScale && number <= kMaxScale) return number;
    Mismatch(name, *value, bounds);
    return 1;
  }

  bool Flag(const char* name) {
    const char* bounds = "it must be 0, 1, false or true";
    const Json* value = Find(name, bounds);
    if (value == nullptr) return false;
    if (value->is_boolean()) return value->get<bool>();
    if (value->is_number_unsigned() && value->get<std::uint64_t>() <= 1) {
      return value->get<std::uint64_t>() == 1;
    }
    Mismatch(name, *value, bounds);
    return false;
  }

  // Index into `choices`.
  std::size_t OneOf(const char* name, std::initializer_list<const char*> choices) {
    const std::string bounds =
        absl::StrCat("it must be \"", absl::StrJoin(choices, "\" or \""), "\"");
    const Json* value = Find(name, bounds);
    if (value == nullptr) return 0;
    if (value->is_string()) {
      const auto& text = value->get_ref<const std::string&>();
      const auto found = std::find(choices.begin(), choices.end(), text);
      if (found != choices.end())
        return static_cast<std::size_t>(found - choices.begin());
    }
    Mismatch(name, *value, bounds);
    return 0;
  }

 private:
  const Json* Find(const char* name, const std::string& bounds) {
    if (!status_.ok()) return nullptr;
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    status_ = Refuse(absl::StrCat(prefix_, name, " is missing; ", bounds));
    return nullptr;
  }

  void Mismatch(const char* name, const Json& value, const std::string& bounds) {
    status_ = Refuse(absl::StrCat(prefix_, name, " is ", Shown(value), "; ", bounds));
  }

  const Json& object_;
  const std::string prefix_;
  absl::Status status_;
};

absl::Status CheckMultiple(const char* name, std::int32_t value, std::int32_t of,
                           const char* of_name = "") {
  if (value % of == 0) return absl::OkStatus();
  return Refuse(
      absl::StrCat(name, " is ", value, "; it must be a multiple of ", of_name, of));
}

// What GOLD layers ask for on top of each field's own bounds.
absl::Status CheckGold(const ModelConfig& config) {
  if (config.dim_att != config.n_embd) {
    return Refuse(absl::StrCat("dim_att is ", config.dim_att,
                               "; with tmix2 \"gold\" it must equal n_embd ",
                               config.n_embd));
  }
  if (config.num_recurrent() < 1) {
    return Refuse(absl::StrCat("n_layer is ", config.n_layer,
                               "; with tmix2 \"gold\" it must be at least 2, for one "
                               "recurrent layer below the GOLD layers"));
  }
  if (config.n_embd % config.kv_cache_compression_ratio != 0) {
    return Refuse(absl::StrCat("kv_cache_compression_ratio is ",
                               config.kv_cache_compression_ratio,
                               "; it must divide n_embd ", config.n_embd));
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(const ModelConfig& config) {
  absl::Status status =
      CheckMultiple("n_embd", config.n_embd, config.head_size, "head_size ");
  status.Update(CheckMultiple("dim_att", config.dim_att, config.head_size, "head_size "));
  if (status.ok() && config.gold) status = CheckGold(config);
  return status;
}

absl::StatusOr<std::optional<Rope>> ReadRope(const Json& root) {
  const auto found = root.find("rope");
  if (found == root.end() || found->is_null()) return std::nullopt;
  if (!found->is_object()) {
    return Refuse(absl::StrCat("rope is ", Shown(*found),
                               "; it must be null or an object with base"));
  }
  FieldReader fields(*found, "rope.");
  Rope rope;
  rope.base = fields.Scale("base");
  rope.rescale = fields.Scale("rescale", 1.0);
  rope.rebase = fields.Scale("rebase", 1.0);
  if (!fields.status().ok()) return fields.status();
  return rope;
}

absl::StatusOr<ModelConfig> FromJson(const Json& root) {
  if (!root.is_object()) return Refuse("it is not a JSON object");
  FieldReader fields(root, "");
  ModelConfig config;
  config.tmix =
      fields.OneOf("tmix", {"x060c2", "x060"}) == 0 ? TimeMix::kFinchC2 : TimeMix::kFinch;
  config.gold = fields.OneOf("tmix2", {"gold", ""}) == 0;
  fields.OneOf("cmix", {"x060"});
  fields.OneOf("cmix2", {"x060"});
  config.n_layer = fields.Int("n_layer", 1, kMaxLayers);
  config.head_size = fields.Int("head_size", kHeadSize, kHeadSize);
  config.n_embd = fields.Int("n_embd", kHeadSize, kMaxEmbd);
  config.vocab_size = fields.Int("vocab_size", 1, kMaxVocab);
  config.dim_att = fields.Int("dim_att", kHeadSize, kMaxEmbd);
  config.dim_ffn = fields.Int("dim_ffn", 0, kMaxFfn);
  config.head_size_divisor = fields.Scale("head_size_divisor");
  // Without GOLD layers the two ratios are read by nothing.
  const std::int32_t min_other = config.gold ? 2 : 0;
  const std::int32_t min_compression = config.gold ? 1 : 0;
  config.inv_other_layer_ratio = fields.Int("inv_other_layer_ratio", min_other, kMaxInt);
  config.kv_cache_compression_ratio =
      fields.Int("kv_cache_compression_ratio", min_compression, kMaxInt);
  config.ctx_len = fields.Int("ctx_len", 1, kMaxInt);
  config.use_one_minus_w = fields.Flag("use_one_minus_w");
  config.use_v2 = fields.Flag("use_v2");
  if (!fields.status().ok()) return fields.status();

  absl::StatusOr<std::optional<Rope>> rope = ReadRope(root);
  if (!rope.ok()) return rope.status();
  config.rope = *rope;
  if (config.dim_ffn == 0) {
    config.dim_ffn = config.n_embd * 7 / 2 / kFfnMultiple * kFfnMultiple;
  }
  const absl::Status status = CheckTogether(config);
  if (!status.ok()) return status;
  return config;
}

// Finds a key that one object has twice, which the parsed value no longer shows.
class DuplicateKeyFinder {
 public:
  const std::optional<std::string>& duplicate() const { return duplicate_; }

  // Called by the parser; keeps every value.
  bool operator()(int /*depth*/, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) {
      keys_.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys_.pop_back();
    } else if (event == Json::parse_event_t::key &&
               !keys_.back().insert(parsed.get_ref<const std::string&>()).second) {
      duplicate_ = Shown(parsed);
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
  std::optional<std::string> duplicate_;
};

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("config.json: cannot be read: ", error.message()));
  }
  if (!std::filesystem::is_regular_file(status)) {
    return Refuse("cannot be read: it is not a regular file");
  }
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size > kMaxFileBytes) {
    return Refuse(
        absl::StrCat("the file has ", size, " bytes; the limit is ", kMaxFileBytes));
  }
  std::string content(error ? 0 : static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (error || !file.read(content.data(), static_cast<std::streamsize>(size))) {
    return Refuse("cannot be read: opening or reading it failed");
  }
  return content;
}

}  // namespace

std::int32_t ModelConfig::num_recurrent() const {
  if (!gold) return n_layer;
  const std::int64_t ratio = inv_other_layer_ratio;
  return static_cast<std::int32_t>(n_layer * (ratio - 1) / ratio);
}

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json) {
  if (json.size() > kMaxFileBytes) {
    return Refuse(absl::StrCat("the text has ", json.size(), " bytes; the limit is ",
                               kMaxFileBytes));
  }
  DuplicateKeyFinder finder;
  Json root;
  try {  // the library throws; nothing above this function does
    root = Json::parse(json, std::ref(finder));
  } catch (const Json::parse_error& error) {
    return Refuse(absl::StrCat("it is not JSON: it breaks at its byte ", error.byte));
  } catch (const Json::exception&) {
    return Refuse("it is not JSON: a number in it is out of range");
  }
  if (finder.duplicate().has_value()) {
    return Refuse(absl::StrCat("the field ", *finder.duplicate(), " occurs twice"));
  }
  return FromJson(root);
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return text.status();
  return ParseModelConfig(*text);
}

}  // namespace goldfinch
