#include "server/tenants/tenant_directory.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <unordered_map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "server/tenants/tenants_file.h"

namespace goldfinch {
namespace {

constexpr absl::string_view kScheme = "Bearer ";

absl::Status NoKey() {
  return absl::UnauthenticatedError("a valid key is needed (authorization: Bearer KEY)");
}

}  // namespace

void TenantReading::AddCounts(const TenantReading& other, std::int64_t sign) {
  prompt += sign * other.prompt;
  generated += sign * other.generated;
  service += sign * other.service;
  put_aside += sign * other.put_aside;
  refused += sign * other.refused;
}

TenantReading Read(const TenantMeter& meter) {
  return {.running = meter.running_requests,
          .waiting = meter.waiting_requests,
          .prompt = meter.prompt_tokens,
          .generated = meter.generated_tokens,
          .service = meter.service,
          .put_aside = meter.put_aside,
          .refused = meter.refused};
}

// Constant.
struct TenantDirectory::Entries {
  std::vector<TenantPtr> tenants;
  std::unordered_map<std::string, TenantPtr> by_name;
  std::vector<KeyHash> hashes;
  std::vector<std::size_t> owners;  // of the hashes: indices into tenants

  explicit Entries(std::vector<Tenant> all) {
    for (Tenant& tenant : all) {
      for (const KeyHash& hash : tenant.key_hashes) {
        hashes.push_back(hash);
        owners.push_back(tenants.size());
      }
      tenants.push_back(std::make_shared<const Tenant>(std::move(tenant)));
      by_name.emplace(tenants.back()->name, tenants.back());
    }
  }

  // Looks at all of them: when it found it, if at all, is nobody's business.
  TenantPtr Find(const KeyHash& hash) const {
    std::size_t found = 0;  // one more than the place
    for (std::size_t i = 0; i < hashes.size(); ++i) {
      const auto same = static_cast<std::size_t>(
          CRYPTO_memcmp(hashes[i].data(), hash.data(), hash.size()) == 0);
      found |= (i + 1) & (0 - same);
    }
    return found == 0 ? nullptr : tenants[owners[found - 1]];
  }
};

std::unique_ptr<TenantDirectory> TenantDirectory::Anonymous() {
  Tenant everybody;
  everybody.name = kAnonymousTenant;
  everybody.policy = kHighestPolicy;
  everybody.policy.weight = 1;
  everybody.sessions = kHighestQuota;
  everybody.admin = true;
  std::vector<Tenant> all;
  all.push_back(std::move(everybody));
  return std::unique_ptr<TenantDirectory>(new TenantDirectory("", std::move(all)));
}

absl::StatusOr<std::unique_ptr<TenantDirectory>> TenantDirectory::Load(
    const std::string& path) {
  absl::StatusOr<std::vector<Tenant>> all = ReadTenantsFile(path);
  if (!all.ok()) return all.status();
  return std::unique_ptr<TenantDirectory>(new TenantDirectory(path, *std::move(all)));
}

TenantDirectory::TenantDirectory(std::string path, std::vector<Tenant> tenants)
    : path_(std::move(path)) {
  Install(std::move(tenants));
}

void TenantDirectory::Install(std::vector<Tenant> tenants) {
  const MutexLock lock(mu_);
  for (Tenant& tenant : tenants) {
    Known& known = known_[tenant.name];
    if (known.meter == nullptr) known.meter = std::make_shared<TenantMeter>();
    tenant.meter = known.meter;
    if (known.when_taken.has_value()) {
      while_away_.AddCounts(Read(*known.meter), 1);
      while_away_.AddCounts(*known.when_taken, -1);
      known.when_taken.reset();
    }
  }
  entries_ = std::make_shared<const Entries>(std::move(tenants));
  for (auto& [name, known] : known_) {
    if (!known.when_taken.has_value() && !entries_->by_name.contains(name)) {
      known.when_taken = Read(*known.meter);
    }
  }
}

std::shared_ptr<const TenantDirectory::Entries> TenantDirectory::entries() const {
  const MutexLock lock(mu_);
  return entries_;
}

std::vector<TenantDirectory::TenantPtr> TenantDirectory::tenants() const {
  return entries()->tenants;
}

SessionQuota TenantDirectory::QuotaOf(const std::string& name) const {
  const std::shared_ptr<const Entries> now = entries();
  const auto found = now->by_name.find(name);
  return found == now->by_name.end() ? SessionQuota() : found->second->sessions;
}

TenantReading TenantDirectory::ReadFormer() const {
  const MutexLock lock(mu_);
  TenantReading former = while_away_;
  for (const auto& [name, known] : known_) {
    if (!known.when_taken.has_value()) continue;
    const TenantReading now = Read(*known.meter);
    former.running += now.running;
    former.waiting += now.waiting;
    former.AddCounts(now, 1);
    former.AddCounts(*known.when_taken, -1);
  }
  return former;
}

absl::StatusOr<TenantDirectory::TenantPtr> TenantDirectory::Authenticate(
    std::string_view authorization) const {
  const std::shared_ptr<const Entries> now = entries();
  if (anonymous()) return now->tenants.front();
  const absl::string_view header(authorization.data(), authorization.size());
  if (!absl::StartsWithIgnoreCase(header, kScheme)) return NoKey();
  const absl::string_view key = header.substr(kScheme.size());
  if (key.empty() || key.size() > kMaxKeyBytes) return NoKey();
  KeyHash hash;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  TenantPtr tenant = now->Find(hash);
  if (tenant == nullptr) return NoKey();
  return tenant;
}

absl::Status TenantDirectory::Reload() {
  if (anonymous()) {
    return absl::FailedPreconditionError("the server was started without a tenants file");
  }
  const MutexLock one_at_a_time(reload_mu_);
  absl::StatusOr<std::vector<Tenant>> all = ReadTenantsFile(path_);
  if (!all.ok()) return all.status();
  Install(*std::move(all));
  return absl::OkStatus();
}

}  // namespace goldfinch
