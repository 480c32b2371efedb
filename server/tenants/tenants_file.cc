#include "server/tenants/tenants_file.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/guarded_file.h"

namespace goldfinch {
namespace {

using Json = nlohmann::json;

constexpr char kWhat[] = "the tenants file";
constexpr std::size_t kMaxFileBytes = std::size_t{4} << 20;
constexpr int kMaxDepth = 4;  // of what is inside of what; the format has no more
constexpr std::size_t kMaxTenants = 10000;
constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kMaxKeys = 16;  // of one tenant
constexpr std::size_t kMaxShownBytes = 32;

constexpr double kLowestWeight = 0.001;
constexpr std::int64_t kMebi = std::int64_t{1} << 20;

absl::Status Refuse(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(kWhat, ": ", why));
}

// A value for a message. Strings are not shown: one in the wrong place may be a key.
std::string Shown(const Json& value) {
  if (value.is_string()) return "a string";
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  return value.dump();
}

// Letters, digits, _ . and -.
bool IsNameLike(const std::string& text, std::size_t max_bytes) {
  return !text.empty() && text.size() <= max_bytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
                  c == '.' || c == '-';
         });
}

// The name of a field for a message, unless it may be a key or spoil the line.
std::string ShownName(const std::string& name) {
  return IsNameLike(name, kMaxShownBytes) ? name : "with a name that is not shown";
}

// Takes the fields of one object, named `where` in messages. The first problem is kept
// in `status` and what is read after it is left as it was.
class Fields {
 public:
  Fields(const Json& object, std::string where, absl::Status& status)
      : object_(object), where_(std::move(where)), status_(status) {}

  // From here on messages say this.
  void set_where(std::string where) { where_ = std::move(where); }

  // Null when it is not there; then, or when there was a problem before.
  const Json* Find(const char* name) {
    known_.insert(name);
    const auto found = object_.find(name);
    return found == object_.end() || !status_.ok() ? nullptr : &*found;
  }

  template <typename Int>
  void Whole(const char* name, std::int64_t low, std::int64_t high, Int& out) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    // Beyond int64 they are unsigned, or floating point in the parser already.
    constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
    const bool fits = value->is_number_unsigned()
                          ? value->get<std::uint64_t>() <= std::uint64_t{kMax}
                          : value->is_number_integer();
    if (fits && value->get<std::int64_t>() >= low && value->get<std::int64_t>() <= high) {
      out = static_cast<Int>(value->get<std::int64_t>());
      return;
    }
    Mismatch(name, *value, absl::StrCat("a whole number in [", low, ", ", high, "]"));
  }

  void Number(const char* name, double low, double high, double& out) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : low - 1;
    if (number >= low && number <= high) {
      out = number;
      return;
    }
    Mismatch(name, *value, absl::StrCat("a number in [", low, ", ", high, "]"));
  }

  void Flag(const char* name, bool& out) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    if (value->is_boolean()) {
      out = value->get<bool>();
      return;
    }
    Mismatch(name, *value, "true or false");
  }

  void Mismatch(const char* name, const Json& value, absl::string_view bounds) {
    Problem(name, absl::StrCat("is ", Shown(value), "; it must be ", bounds));
  }

  void Problem(absl::string_view name, absl::string_view what) {
    if (status_.ok()) status_ = Refuse(absl::StrCat(where_, name, " ", what));
  }

  // What nobody asked for is a mistake.
  void RefuseUnknown() {
    for (const auto& [name, value] : object_.items()) {
      if (!known_.contains(name)) Problem("field", ShownName(name) + " is unknown");
    }
  }

 private:
  const Json& object_;
  std::string where_;
  absl::Status& status_;
  std::set<std::string> known_;
};

void ReadName(Fields& fields, Tenant& tenant) {
  constexpr char kBounds[] = "1 to 64 letters, digits, _, . and -";
  const Json* value = fields.Find("name");
  if (value == nullptr) return fields.Problem("name", "is missing");
  if (!value->is_string()) return fields.Mismatch("name", *value, kBounds);
  const auto& name = value->get_ref<const std::string&>();
  if (!IsNameLike(name, kMaxNameBytes)) {
    return fields.Problem("name", absl::StrCat("must be ", kBounds));
  }
  if (name == kAnonymousTenant || name == kOtherTenants) {
    return fields.Problem("name", absl::StrCat("is \"", name, "\", which is reserved"));
  }
  tenant.name = name;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<KeyHash> HashOf(const Json& value) {
  if (!value.is_string()) return std::nullopt;
  const auto& hex = value.get_ref<const std::string&>();
  KeyHash hash;
  if (hex.size() != 2 * hash.size()) return std::nullopt;
  for (std::size_t i = 0; i < hash.size(); ++i) {
    const int high = HexDigit(hex[2 * i]), low = HexDigit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    hash[i] = static_cast<unsigned char>(high * 16 + low);
  }
  return hash;
}

void ReadKeys(Fields& fields, Tenant& tenant) {
  const Json* value = fields.Find("key_sha256");
  if (value == nullptr) return fields.Problem("key_sha256", "is missing");
  const std::string bounds = absl::StrCat("a list of 1 to ", kMaxKeys, " hashes");
  if (!value->is_array()) return fields.Mismatch("key_sha256", *value, bounds);
  if (value->empty() || value->size() > kMaxKeys) {
    return fields.Problem("key_sha256", absl::StrCat("has ", value->size(),
                                                     " entries; it must be ", bounds));
  }
  for (std::size_t i = 0; i < value->size(); ++i) {
    const std::optional<KeyHash> hash = HashOf((*value)[i]);
    if (!hash.has_value()) {
      return fields.Problem(absl::StrCat("key_sha256[", i, "]"),
                            "must be a string of 64 hexadecimal digits");
    }
    tenant.key_hashes.push_back(*hash);
  }
}

void ReadLimits(const Json& object, const std::string& where, absl::Status& status,
                Tenant& tenant) {
  Fields fields(object, absl::StrCat(where, "limits."), status);
  constexpr const TenantPolicy& kTop = kHighestPolicy;
  TenantPolicy& policy = tenant.policy;
  const auto read = [&fields](const char* name, std::int64_t low, std::int64_t high,
                              std::int64_t& out) { fields.Whole(name, low, high, out); };
  read("max_running_requests", 1, kTop.max_running_requests, policy.max_running_requests);
  read("max_queued_requests", 1, kTop.max_queued_requests, policy.max_queued_requests);
  read("max_queued_tokens", 1, kTop.max_queued_tokens, policy.max_queued_tokens);
  read("max_tokens_per_minute", 1, kTop.max_tokens_per_minute,
       policy.max_tokens_per_minute);
  read("max_prompt_tokens", 1, kTop.max_prompt_tokens, policy.max_prompt_tokens);
  fields.Whole("max_priority", -kTop.max_priority, kTop.max_priority,
               policy.max_priority);
  SessionQuota& sessions = tenant.sessions;
  read("max_sessions", 0, kHighestQuota.max_sessions, sessions.max_sessions);
  read("max_resident_bytes", kMebi, kHighestQuota.max_resident_bytes,
       sessions.max_resident_bytes);
  read("max_parked_bytes", 0, kHighestQuota.max_parked_bytes, sessions.max_parked_bytes);
  fields.RefuseUnknown();
}

absl::StatusOr<Tenant> ReadTenant(const Json& value, std::size_t index) {
  std::string where = absl::StrCat("tenants[", index, "]");
  if (!value.is_object()) {
    return Refuse(absl::StrCat(where, " is ", Shown(value), "; it must be an object"));
  }
  Tenant tenant;
  absl::Status status;
  Fields fields(value, absl::StrCat(where, ": "), status);
  ReadName(fields, tenant);
  if (!status.ok()) return status;
  where = absl::StrCat("tenant ", tenant.name, ": ");
  fields.set_where(where);
  ReadKeys(fields, tenant);
  fields.Number("weight", kLowestWeight, kHighestPolicy.weight, tenant.policy.weight);
  fields.Flag("admin", tenant.admin);
  if (const Json* limits = fields.Find("limits"); limits != nullptr) {
    if (limits->is_object()) {
      ReadLimits(*limits, where, status, tenant);
    } else {
      fields.Mismatch("limits", *limits, "an object");
    }
  }
  fields.RefuseUnknown();
  if (!status.ok()) return status;
  return tenant;
}

// Sees what the parsed value no longer shows, or should never have held.
class Watcher {
 public:
  const absl::Status& status() const { return status_; }

  // Called by the parser; false: what comes is not kept.
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (!status_.ok()) return false;
    if (event == Json::parse_event_t::object_start) {
      keys_.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys_.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        Problem(absl::StrCat("a field ", ShownName(key), " occurs twice in one object"));
      }
    }
    if (depth > kMaxDepth) Problem("lists and objects are too deep inside one another");
    return status_.ok();
  }

 private:
  void Problem(const std::string& why) {
    if (status_.ok()) status_ = Refuse(why);
  }

  std::vector<std::set<std::string>> keys_;  // of the objects that are open
  absl::Status status_;
};

// An object with the list "tenants" and nothing else.
absl::StatusOr<Json> ParseList(std::string_view text) {
  Watcher watcher;
  Json parsed;
  try {
    parsed = Json::parse(text.begin(), text.end(),
                         [&watcher](int depth, Json::parse_event_t event, Json& value) {
                           return watcher(depth, event, value);
                         });
  } catch (const Json::parse_error& error) {  // its text shows what it met
    if (!watcher.status().ok()) return watcher.status();
    return Refuse(absl::StrCat("it is not JSON, at byte ", error.byte));
  } catch (const Json::exception&) {  // a number out of any range
    return Refuse("it is not JSON");
  }
  if (!watcher.status().ok()) return watcher.status();
  if (!parsed.is_object()) return Refuse("it must be an object");
  absl::Status status;
  Fields fields(parsed, "", status);
  const Json* tenants = fields.Find("tenants");
  if (tenants == nullptr) {
    fields.Problem("tenants", "is missing");
  } else if (!tenants->is_array()) {
    fields.Mismatch("tenants", *tenants, "a list");
  } else if (tenants->empty() || tenants->size() > kMaxTenants) {
    fields.Problem("tenants", absl::StrCat("has ", tenants->size(),
                                           " entries; it must have 1 to ", kMaxTenants));
  }
  fields.RefuseUnknown();
  if (!status.ok()) return status;
  return *tenants;
}

// Two tenants of one name, or one key that would be two tenants'.
absl::Status CheckUnique(const std::vector<Tenant>& tenants) {
  std::set<std::string> names;
  std::set<KeyHash> hashes;
  for (const Tenant& tenant : tenants) {
    if (!names.insert(tenant.name).second) {
      return Refuse(absl::StrCat("tenant ", tenant.name, ": name occurs twice"));
    }
    for (const KeyHash& hash : tenant.key_hashes) {
      if (!hashes.insert(hash).second) {
        return Refuse(absl::StrCat("tenant ", tenant.name,
                                   ": key_sha256 has a hash that occurs twice"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Tenant>> ParseTenants(std::string_view text) {
  const absl::StatusOr<Json> list = ParseList(text);
  if (!list.ok()) return list.status();
  std::vector<Tenant> tenants;
  for (std::size_t i = 0; i < list->size(); ++i) {
    absl::StatusOr<Tenant> tenant = ReadTenant((*list)[i], i);
    if (!tenant.ok()) return tenant.status();
    tenants.push_back(*std::move(tenant));
  }
  const absl::Status status = CheckUnique(tenants);
  if (!status.ok()) return status;
  return tenants;
}

absl::StatusOr<std::vector<Tenant>> ReadTenantsFile(const std::string& path) {
  const absl::StatusOr<std::string> text =
      ReadGuardedFile(path, kWhat, kMaxFileBytes, FileGuard::kNotWritableByAll);
  if (!text.ok()) return text.status();
  return ParseTenants(*text);
}

}  // namespace goldfinch
