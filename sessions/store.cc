#include "sessions/store.h"

#include "absl/strings/str_cat.h"

namespace goldfinch {

absl::Status OverTenantLimit(std::int64_t bytes, std::int64_t limit) {
  return absl::OutOfRangeError(
      absl::StrCat("this tenant's sessions would take ", bytes,
                   " bytes or more in the session store; the limit is ", limit));
}

}  // namespace goldfinch
