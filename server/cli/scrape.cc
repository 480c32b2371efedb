#include "server/cli/scrape.h"

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "server/cli/metrics_text.h"

namespace goldfinch {
namespace {

constexpr long kConnectMilliseconds = 2000;
constexpr long kTotalMilliseconds = 4000;
constexpr long kHttpOk = 200;

// Called by libcurl with a part of the answer; less than `size` breaks it off.
std::size_t Append(char* data, std::size_t /*one*/, std::size_t size, void* to) {
  auto& text = *static_cast<std::string*>(to);
  if (text.size() + size > MetricsText::kMaxBytes) return 0;
  text.append(data, size);
  return size;
}

}  // namespace

Scraper::Scraper(const std::string& address)
    : url_(absl::StrCat("http://", address, "/metrics")),
      curl_(curl_easy_init(), curl_easy_cleanup) {
  GOLDFINCH_CHECK(curl_ != nullptr);
  CURL* curl = curl_.get();
  curl_easy_setopt(curl, CURLOPT_URL, url_.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(curl, CURLOPT_PROXY, "");  // whatever the environment says
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, kConnectMilliseconds);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, kTotalMilliseconds);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Append);
}

absl::StatusOr<std::string> Scraper::Get() {
  std::string text;
  curl_easy_setopt(curl_.get(), CURLOPT_WRITEDATA, &text);
  const CURLcode code = curl_easy_perform(curl_.get());
  if (code == CURLE_WRITE_ERROR)
    return absl::FailedPreconditionError(
        absl::StrCat("its answer is longer than ", MetricsText::kMaxBytes, " bytes"));
  if (code != CURLE_OK) return absl::UnavailableError(curl_easy_strerror(code));
  long http = 0;
  curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &http);
  if (http != kHttpOk)
    return absl::FailedPreconditionError(
        absl::StrCat("it answers with status ", http, ", not with metrics"));
  return text;
}

}  // namespace goldfinch
