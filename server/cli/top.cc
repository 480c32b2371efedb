#include "server/cli/top.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/cli/scrape.h"
#include "server/cli/screen.h"
#include "server/cli/signals.h"
#include "server/cli/top_text.h"
#include "server/cli/top_view.h"

namespace goldfinch {
namespace {

using std::chrono::steady_clock;

double Seconds(auto duration) { return std::chrono::duration<double>(duration).count(); }

class Top {
 public:
  explicit Top(const TopFlags& flags) : flags_(flags), scraper_(flags.metrics) {}

  int Run();

 private:
  absl::StatusOr<TopSample> Look();
  // Whether the lines are those that --count counts: a server that was seen once has no
  // rates yet.
  bool LookAndDraw();
  std::vector<std::string> Trouble(const absl::Status& status) const;

  const TopFlags& flags_;
  Screen screen_;
  Scraper scraper_;
  std::optional<TopSample> before_, now_;  // none while the server is away
  std::int64_t shown_ = 0;
  std::vector<std::string> lines_;
};

int Top::Run() {
  const auto interval = std::chrono::duration_cast<steady_clock::duration>(
      std::chrono::duration<double>(flags_.interval));
  for (auto next = steady_clock::now();;) {
    if (LookAndDraw()) ++shown_;
    if (flags_.count > 0 && shown_ == flags_.count) return now_.has_value() ? 0 : 1;
    // After a long look there is a whole interval again, not none.
    next = std::max(next, steady_clock::now() - interval) + interval;
    Screen::Event event = screen_.Wait(next);
    for (; event == Screen::Event::kRedraw; event = screen_.Wait(next))
      screen_.Draw(lines_);
    if (event == Screen::Event::kQuit) return 0;
    if (event == Screen::Event::kInterrupt) return kInterruptedExit;
  }
}

bool Top::LookAndDraw() {
  absl::StatusOr<TopSample> sample = Look();
  before_ = std::exchange(now_, std::nullopt);
  if (sample.ok()) now_ = *std::move(sample);
  if (!now_.has_value()) {
    lines_ = Trouble(sample.status());
  } else if (before_.has_value() || screen_.terminal()) {
    lines_ = TopLines(flags_.metrics, before_.has_value() ? &*before_ : nullptr, *now_);
  } else {
    return false;
  }
  screen_.Draw(lines_);
  return before_.has_value() || !now_.has_value();
}

absl::StatusOr<TopSample> Top::Look() {
  absl::StatusOr<std::string> text = scraper_.Get();
  if (!text.ok()) return text.status();
  TopSample sample{
      .seconds = Seconds(steady_clock::now().time_since_epoch()),
      .unix_seconds = Seconds(std::chrono::system_clock::now().time_since_epoch())};
  absl::StatusOr<MetricsText> metrics = MetricsText::Parse(*text);
  if (!metrics.ok())
    return absl::FailedPreconditionError(absl::StrCat(
        "its answer is not Prometheus's text format: ", metrics.status().message()));
  sample.metrics = *std::move(metrics);
  if (!IsGoldFinch(sample.metrics))
    return absl::FailedPreconditionError(
        "its metrics are not those of a GoldFinch server");
  return sample;
}

std::vector<std::string> Top::Trouble(const absl::Status& status) const {
  const bool away = absl::IsUnavailable(status);
  std::vector<std::string> lines = {
      Printable(absl::StrCat("goldfinch: no metrics from ", flags_.metrics, ": ",
                             away ? "it does not answer: " : "", status.message()))};
  // These lines are counted, too.
  if (flags_.count == 0 || shown_ + 1 < flags_.count) {
    lines.push_back(absl::StrCat("trying again every ", RateText(flags_.interval), " s"));
  }
  return lines;
}

}  // namespace

bool IsHostAndPort(absl::string_view address) {
  const std::size_t colon = address.rfind(':');
  int port = 0;
  return colon != absl::string_view::npos && colon > 0 &&
         address.find_first_of("/?#@ ") == absl::string_view::npos &&
         absl::SimpleAtoi(address.substr(colon + 1), &port) && port > 0 && port <= 65535;
}

int RunTop(const TopFlags& flags) { return Top(flags).Run(); }

}  // namespace goldfinch
