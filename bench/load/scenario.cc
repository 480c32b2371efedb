#include "bench/load/scenario.h"

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

using Json = nlohmann::json;

constexpr double kDaySeconds = 86400;
constexpr std::size_t kMaxTenants = 1000;
constexpr double kMaxTokens = 1 << 30;
constexpr double kMaxAtOnce = 100000;
constexpr double kMaxSeed = 1ull << 53;  // what every reader of JSON keeps exactly

struct Range {
  double low = 0;
  double high = 0;
};

// The fields of one object. The first mistake is kept, and what is read after it is not
// looked at.
class Fields {
 public:
  // `where` is what the object is called in errors.
  Fields(const Json& object, std::string where)
      : object_(object), where_(std::move(where)) {
    if (!object.is_object()) Fail("it", "must be an object");
  }

  const absl::Status& status() const { return status_; }
  bool Has(const char* name) const { return status_.ok() && object_.contains(name); }
  const Json& operator[](const char* name) const { return object_.at(name); }

  void Fail(const std::string& what, const std::string& why) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", what, " ", why));
    }
  }

  // A field that is not there leaves `value` as it is.
  template <typename Number>
  void Read(const char* name, const Range& range, Number& value) {
    if (!Has(name)) return;
    const Json& field = object_.at(name);
    const bool right =
        std::is_integral_v<Number> ? field.is_number_integer() : field.is_number();
    const double number = right ? field.get<double>() : 0;
    if (!right || number < range.low || number > range.high) {
      Fail(name, absl::StrCat("is ", field.dump(), "; it must be a ",
                              std::is_integral_v<Number> ? "whole " : "", "number in [",
                              range.low, ", ", range.high, "]"));
      return;
    }
    value = field.get<Number>();
  }

  void Read(const char* name, std::string& value) {
    if (!Has(name)) return;
    const Json& field = object_.at(name);
    if (!field.is_string()) return Fail(name, "must be a string");  // maybe a key
    value = field.get<std::string>();
  }

  void Require(std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (status_.ok() && !object_.contains(name)) Fail(name, "is missing");
    }
  }

  void AllowOnly(const std::set<std::string>& names) {
    if (!status_.ok()) return;
    for (const auto& [name, value] : object_.items()) {
      if (!names.contains(name)) Fail(name, "is not a field of it");
    }
  }

 private:
  const Json& object_;
  const std::string where_;
  absl::Status status_;
};

absl::StatusOr<LoadTenant> ParseTenant(const Json& object, std::size_t index) {
  Fields fields(object, absl::StrCat("tenants[", index, "]"));
  fields.AllowOnly({"name", "key", "concurrent", "rate", "prompt_tokens", "max_tokens",
                    "priority", "group"});
  fields.Require({"name", "prompt_tokens", "max_tokens"});
  LoadTenant tenant;
  fields.Read("name", tenant.name);
  fields.Read("key", tenant.key);
  fields.Read("group", tenant.group);
  fields.Read("concurrent", {1, kMaxAtOnce}, tenant.concurrent);
  fields.Read("rate", {0.001, kMaxAtOnce}, tenant.rate);
  fields.Read("prompt_tokens", {1, kMaxTokens}, tenant.prompt_tokens);
  fields.Read("max_tokens", {1, kMaxTokens}, tenant.max_tokens);
  fields.Read("priority", {-100, 100}, tenant.priority);
  if (tenant.name.empty()) fields.Fail("name", "must not be empty");
  if (fields.Has("concurrent") == fields.Has("rate")) {
    fields.Fail("either concurrent or rate", "must be there, and not both");
  }
  if (!fields.status().ok()) return fields.status();
  return tenant;
}

}  // namespace

absl::StatusOr<Scenario> ParseScenario(const std::string& text) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    // What the library says has a part of the text in it, which may be a key.
    return absl::InvalidArgumentError(
        absl::StrCat("the scenario is not JSON; see byte ", error.byte));
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError(
        "the scenario has a number that is beyond what can be read");
  }
  Fields fields(json, "scenario");
  fields.AllowOnly(
      {"duration_seconds", "warmup_seconds", "tail_seconds", "seed", "tenants"});
  fields.Require({"duration_seconds", "tenants"});
  Scenario scenario;
  fields.Read("duration_seconds", {0.1, kDaySeconds}, scenario.duration_seconds);
  fields.Read("warmup_seconds", {0, kDaySeconds}, scenario.warmup_seconds);
  fields.Read("tail_seconds", {0, kDaySeconds}, scenario.tail_seconds);
  fields.Read("seed", {0, kMaxSeed}, scenario.seed);
  if (!fields.status().ok()) return fields.status();
  const Json& tenants = fields["tenants"];
  if (!tenants.is_array() || tenants.empty() || tenants.size() > kMaxTenants) {
    fields.Fail("tenants", absl::StrCat("must be a list of 1 to ", kMaxTenants));
    return fields.status();
  }
  std::set<std::string> names;
  for (std::size_t i = 0; i < tenants.size(); ++i) {
    absl::StatusOr<LoadTenant> tenant = ParseTenant(tenants[i], i);
    if (!tenant.ok()) return tenant.status();
    if (!names.insert(tenant->name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tenants[", i, "]: name is ", tenant->name, ", as of another"));
    }
    scenario.tenants.push_back(*std::move(tenant));
  }
  return scenario;
}

}  // namespace goldfinch
