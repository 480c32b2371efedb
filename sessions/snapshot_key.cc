#include "sessions/snapshot_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <fstream>

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

Mac ComputeMac(const SnapshotKey& key, std::string_view bytes) {
  Mac mac{};
  unsigned int size = 0;
  const unsigned char* done =
      HMAC(EVP_sha256(), key.secret.data(), static_cast<int>(key.secret.size()),
           reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), mac.data(),
           &size);
  GOLDFINCH_CHECK(done != nullptr && size == kMacBytes);
  return mac;
}

bool SameMac(const Mac& mac, std::string_view other) {
  return other.size() == mac.size() &&
         CRYPTO_memcmp(mac.data(), other.data(), mac.size()) == 0;
}

}  // namespace goldfinch
