#include "sessions/session_id.h"

#include <openssl/rand.h>

#include <algorithm>
#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "engine/check.h"

namespace goldfinch {

std::string NewSessionId() {
  std::array<unsigned char, 16> bits;
  GOLDFINCH_CHECK(RAND_bytes(bits.data(), static_cast<int>(bits.size())) == 1);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bits.data()), bits.size()));
}

bool IsSessionId(std::string_view id) {
  return id.size() == 32 && std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

absl::Status CheckSessionId(std::string_view id) {
  if (IsSessionId(id)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "the session id must be 32 lowercase hexadecimal digits");
}

absl::Status NoSuchSession() { return absl::NotFoundError("there is no such session"); }

absl::Status HeldElsewhere() {
  return absl::UnavailableError("another server holds the session");
}

absl::Status ClaimLost() {
  return absl::FailedPreconditionError("the claim on the session is lost");
}

absl::Status LeaseLapsed() {
  return absl::UnavailableError("this server's lease on sessions has lapsed");
}

}  // namespace goldfinch
