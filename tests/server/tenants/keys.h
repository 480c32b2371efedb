// Keys as operators make them: random bytes, and the SHA-256 that the tenants file has.
#pragma once

#include <openssl/sha.h>

#include <cstdio>
#include <string>

namespace goldfinch {

inline std::string HashOfKey(const std::string& key) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest);
  std::string hex;
  for (const unsigned char byte : digest) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    hex += digits;
  }
  return hex;
}

// An entry of the tenants file; `more` is the rest of its fields, with a comma before.
inline std::string TenantEntry(const std::string& name, const std::string& key,
                               const std::string& more = "") {
  return "{\"name\": \"" + name + "\", \"key_sha256\": [\"" + HashOfKey(key) + "\"]" +
         more + "}";
}

}  // namespace goldfinch
