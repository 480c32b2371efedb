#include "sessions/snapshot_key.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <fstream>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr std::size_t kMinKeyBytes = 32;
constexpr std::size_t kMaxKeyBytes = 4096;

}  // namespace

absl::StatusOr<SnapshotKey> ReadSnapshotKey(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::InvalidArgumentError("the snapshot key file cannot be opened");
  // One byte more than allowed, so that a longer file shows.
  std::string secret(kMaxKeyBytes + 1, '\0');
  file.read(secret.data(), static_cast<std::streamsize>(secret.size()));
  if (file.bad() || (file.fail() && !file.eof())) {
    return absl::InvalidArgumentError("the snapshot key file cannot be read");
  }
  secret.resize(static_cast<std::size_t>(file.gcount()));
  if (secret.size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the snapshot key file has more than ",
                                                   kMaxKeyBytes, " bytes, the limit"));
  }
  if (secret.size() < kMinKeyBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the snapshot key file has ",
                                                   secret.size(), " bytes; at least ",
                                                   kMinKeyBytes, " are needed"));
  }
  return SnapshotKey{std::move(secret)};
}

Mac ComputeMac(const SnapshotKey& key, std::span<const std::string_view> pieces) {
  struct Free {
    void operator()(EVP_MAC* mac) const { EVP_MAC_free(mac); }
    void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
  };
  const std::unique_ptr<EVP_MAC, Free> hmac(EVP_MAC_fetch(nullptr, "HMAC", nullptr));
  const std::unique_ptr<EVP_MAC_CTX, Free> context(EVP_MAC_CTX_new(hmac.get()));
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_end()};
  bool ok = EVP_MAC_init(context.get(),
                         reinterpret_cast<const unsigned char*>(key.secret.data()),
                         key.secret.size(), parameters) == 1;
  for (const std::string_view piece : pieces) {
    ok = ok && EVP_MAC_update(context.get(),
                              reinterpret_cast<const unsigned char*>(piece.data()),
                              piece.size()) == 1;
  }
  Mac mac{};
  std::size_t size = 0;
  ok = ok && EVP_MAC_final(context.get(), mac.data(), &size, mac.size()) == 1;
  GOLDFINCH_CHECK(ok && size == kMacBytes);
  return mac;
}

bool SameMac(const Mac& mac, std::string_view other) {
  return other.size() == mac.size() &&
         CRYPTO_memcmp(mac.data(), other.data(), mac.size()) == 0;
}

}  // namespace goldfinch
