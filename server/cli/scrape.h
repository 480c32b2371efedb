// The text that a server gives at http://HOST:PORT/metrics.
//
// Threads: one.
#pragma once

#include <curl/curl.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace goldfinch {

class Scraper {
 public:
  // `address` is HOST:PORT.
  explicit Scraper(const std::string& address);

  // Waits for some seconds at most, and takes at most MetricsText::kMaxBytes. UNAVAILABLE
  // with the reason when nobody answers, FAILED_PRECONDITION when it is no metrics
  // endpoint that does.
  absl::StatusOr<std::string> Get();

 private:
  struct Curl;

  const std::string url_;
  const Curl* const library_;  // null: there is none
  std::unique_ptr<CURL, void (*)(CURL*)> curl_;  // keeps the connection
};

}  // namespace goldfinch
