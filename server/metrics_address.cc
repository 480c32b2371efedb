#include "server/metrics_address.h"

#include <civetweb.h>

#include "absl/strings/str_cat.h"

namespace goldfinch {

absl::Status CheckMetricsAddress(const std::string& address) {
  const bool v6 = address.starts_with('[') || address.find(':') != address.rfind(':');
  if (!v6 || mg_check_feature(MG_FEATURES_IPV6) != 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--metrics is ", address,
                   "; it must be an IPv4 address: the library that serves metrics, "
                   "civetweb, was built without IPv6"));
}

}  // namespace goldfinch
