#include "sessions/store.h"

#include "absl/strings/str_cat.h"

namespace goldfinch {

absl::Status OverReadersLimit(std::int64_t limit) {
  return absl::FailedPreconditionError(absl::StrCat(
      "the stored snapshot has more bytes than this server takes; the limit is ", limit));
}

absl::Status OverTenantLimit(std::int64_t bytes, std::int64_t limit) {
  return absl::OutOfRangeError(
      absl::StrCat("this tenant's sessions would take ", bytes,
                   " bytes or more in the session store; the limit is ", limit));
}

}  // namespace goldfinch
