#include "server/cli/scrape.h"

#include <dlfcn.h>

#include <cstddef>
#include <type_traits>

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

// Loaded when it is wanted: it brings some twenty libraries with it, for one subcommand.
struct Scraper::Curl {
  decltype(&::curl_easy_init) init = nullptr;
  decltype(&::curl_easy_cleanup) cleanup = nullptr;
  decltype(&::curl_easy_setopt) setopt = nullptr;
  decltype(&::curl_easy_perform) perform = nullptr;
  decltype(&::curl_easy_strerror) strerror = nullptr;
  decltype(&::curl_easy_getinfo) getinfo = nullptr;

  // Null when there is no such library, or a strange one.
  static const Curl* Load() {
    static const Curl* const loaded = []() -> const Curl* {
      void* library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) return nullptr;
      bool all = true;
      const auto find = [&](const char* name, auto& function) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(
            dlsym(library, name));
        all = all && function != nullptr;
      };
      static Curl curl;
      find("curl_easy_init", curl.init);
      find("curl_easy_cleanup", curl.cleanup);
      find("curl_easy_setopt", curl.setopt);
      find("curl_easy_perform", curl.perform);
      find("curl_easy_strerror", curl.strerror);
      find("curl_easy_getinfo", curl.getinfo);
      return all ? &curl : nullptr;
    }();
    return loaded;
  }
};

Scraper::Scraper(const std::string& address)
    : url_(absl::StrCat("http://", address, "/metrics")),
      library_(Curl::Load()),
      curl_(nullptr, library_ == nullptr ? nullptr : library_->cleanup) {
  if (library_ == nullptr) return;
  curl_.reset(library_->init());
  GOLDFINCH_CHECK(curl_ != nullptr);
  CURL* curl = curl_.get();
  const auto set = library_->setopt;
  set(curl, CURLOPT_URL, url_.c_str());
  set(curl, CURLOPT_PROTOCOLS_STR, "http");
  set(curl, CURLOPT_PROXY, "");  // whatever the environment says
  set(curl, CURLOPT_NOSIGNAL, 1L);
  set(curl, CURLOPT_CONNECTTIMEOUT_MS, kConnectMilliseconds);
  set(curl, CURLOPT_TIMEOUT_MS, kTotalMilliseconds);
  set(curl, CURLOPT_WRITEFUNCTION, Append);
}

absl::StatusOr<std::string> Scraper::Get() {
  if (library_ == nullptr) {
    return absl::FailedPreconditionError("libcurl.so.4 is needed, and not installed");
  }
  std::string text;
  library_->setopt(curl_.get(), CURLOPT_WRITEDATA, &text);
  const CURLcode code = library_->perform(curl_.get());
  if (code == CURLE_WRITE_ERROR)
    return absl::FailedPreconditionError(
        absl::StrCat("its answer is longer than ", MetricsText::kMaxBytes, " bytes"));
  if (code != CURLE_OK) return absl::UnavailableError(library_->strerror(code));
  long http = 0;
  library_->getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &http);
  if (http != kHttpOk)
    return absl::FailedPreconditionError(
        absl::StrCat("it answers with status ", http, ", not with metrics"));
  return text;
}

}  // namespace goldfinch
