#include "server/cli/top_view.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/cli/histogram_delta.h"
#include "server/cli/top_text.h"

namespace goldfinch {
namespace {

using Labels = MetricsText::Labels;

// Two looks at the system's clock may round differently.
constexpr double kSameStartSeconds = 2;

// Whether the label `kind` is this one; with an empty one all are.
bool IsOfKind(const MetricSeries& series, absl::string_view kind) {
  const std::string* const label = series.Label("kind");
  return kind.empty() || (label != nullptr && *label == kind);
}

// The two looks, asked for numbers.
class Looks {
 public:
  Looks(const TopSample* before, const TopSample& now) : before_(before), now_(now) {}

  const MetricsText& now() const { return now_.metrics; }
  // Null when there is none, or it was of another start of the server.
  const MetricsText* before() const {
    return before_ == nullptr ? nullptr : &before_->metrics;
  }
  std::optional<double> Level(absl::string_view name, const Labels& labels = {}) const {
    return now().Find(name, labels);
  }
  std::optional<double> Gain(absl::string_view name, const Labels& labels = {}) const {
    if (before_ == nullptr) return std::nullopt;
    const std::optional<double> from = before_->metrics.Find(name, labels);
    const std::optional<double> to = now().Find(name, labels);
    if (!from.has_value() || !to.has_value() || !(*to >= *from)) return std::nullopt;
    return *to - *from;
  }
  // A second.
  std::optional<double> Rate(absl::string_view name, const Labels& labels = {}) const {
    return Rate(Gain(name, labels));
  }
  std::optional<double> Rate(std::optional<double> gain) const {
    if (before_ == nullptr || !gain.has_value()) return std::nullopt;
    const double seconds = now_.seconds - before_->seconds;
    if (!(seconds > 0)) return std::nullopt;
    return *gain / seconds;
  }
  // What was gained over all series of a name, or those of one kind.
  std::optional<double> GainOfAll(absl::string_view name,
                                  absl::string_view kind = "") const {
    if (before_ == nullptr) return std::nullopt;
    std::map<decltype(MetricSeries::labels), double> from;
    for (const MetricSeries& series : before_->metrics.All(name)) {
      from.emplace(series.labels, series.value);
    }
    std::optional<double> sum;
    for (const MetricSeries& series : now().All(name)) {
      if (!IsOfKind(series, kind)) continue;
      const auto found = from.find(series.labels);
      if (found == from.end() || !(series.value >= found->second)) continue;
      sum = sum.value_or(0) + (series.value - found->second);
    }
    return sum;
  }
  std::string Quantiles(absl::string_view name) const {
    const HistogramDelta delta(before(), now(), name);
    return absl::StrCat("p50 ", delta.Seconds(0.5), ", p99 ", delta.Seconds(0.99));
  }
  double unix_seconds() const { return now_.unix_seconds; }

 private:
  const TopSample* const before_;
  const TopSample& now_;
};

std::string Line(absl::string_view label, absl::string_view text) {
  return absl::StrFormat("%-13s %s", label, text);
}

std::optional<double> Sum(std::optional<double> a, std::optional<double> b) {
  if (!a.has_value() || !b.has_value()) return std::nullopt;
  return *a + *b;
}

// The part of hits in hits and misses.
std::string HitShare(std::optional<double> hits, std::optional<double> misses) {
  return ShareText(hits, Sum(hits, misses));
}

// "3 of 64 (5%)"
std::string Filling(const Looks& looks, absl::string_view used, absl::string_view all) {
  return absl::StrCat(CountText(looks.Level(used)), " of ", CountText(looks.Level(all)),
                      " (", ShareText(looks.Level(used), looks.Level(all)), ")");
}

// "admission 1, put_aside 0, slow_reader 0": the series of a name by one of their labels.
std::string ByLabel(const Looks& looks, absl::string_view name, absl::string_view label,
                    std::string (*text)(std::optional<double>)) {
  std::vector<std::string> parts;
  for (const MetricSeries& series : looks.now().All(name)) {
    const std::string* value = series.Label(label);
    if (value == nullptr) continue;
    parts.push_back(absl::StrCat(Printable(*value), " ", text(series.value)));
  }
  return absl::StrJoin(parts, ", ");
}

std::optional<double> SumOfAll(const Looks& looks, absl::string_view name) {
  std::optional<double> sum;
  for (const MetricSeries& series : looks.now().All(name))
    sum = sum.value_or(0) + series.value;
  return sum;
}

std::string LabelOf(const Looks& looks, absl::string_view name, absl::string_view label) {
  for (const MetricSeries& series : looks.now().All(name)) {
    if (const std::string* value = series.Label(label)) return Printable(*value);
  }
  return "-";
}

std::string Heading(const std::string& address, const Looks& looks, bool restarted) {
  std::string up = "-";
  if (const auto start = looks.Level("process_start_time_seconds"))
    up = AgeText(looks.unix_seconds() - *start);
  return absl::StrCat("goldfinch ", LabelOf(looks, "goldfinch_build_info", "version"),
                      " at ", Printable(address), ", up ", up,
                      restarted ? " (restarted)" : "", "; ",
                      LabelOf(looks, "goldfinch_model_info", "model"), ", ",
                      LabelOf(looks, "goldfinch_model_info", "numerics_id"));
}

void AddLoad(const Looks& looks, std::vector<std::string>& lines) {
  lines.push_back(Line(
      "requests",
      absl::StrCat(
          "running ", CountText(looks.Level("goldfinch_requests_running")),
          ", sequences ", CountText(looks.Level("goldfinch_sequences_running")),
          ", waiting ", CountText(SumOfAll(looks, "goldfinch_requests_waiting")), " (",
          ByLabel(looks, "goldfinch_requests_waiting", "reason", CountText), ")")));
  lines.push_back(
      Line("ended",
           absl::StrCat(
               RateText(looks.Rate(looks.GainOfAll("goldfinch_requests_finished_total"))),
               "/s, refused ",
               RateText(looks.Rate(looks.GainOfAll("goldfinch_requests_refused_total"))),
               "/s, prompt tokens waiting ",
               CountText(looks.Level("goldfinch_waiting_prompt_tokens")))));
  // Unlike the tokens of ended requests these are counted as they come.
  const std::optional<double> generated =
      looks.GainOfAll("goldfinch_tenant_tokens_total", "generated");
  lines.push_back(
      Line("tokens/s", absl::StrCat("prompt ",
                                    RateText(looks.Rate("goldfinch_step_tokens_total",
                                                        {{"kind", "prompt"}})),
                                    ", generated ", RateText(looks.Rate(generated)))));
  lines.push_back(
      Line("first token", looks.Quantiles("goldfinch_time_to_first_token_seconds")));
  lines.push_back(
      Line("next token", looks.Quantiles("goldfinch_inter_token_latency_seconds")));
  const std::optional<double> steps = looks.Gain("goldfinch_step_sequences_count");
  const std::optional<double> sequences = looks.Gain("goldfinch_step_sequences_sum");
  std::optional<double> mean;
  if (sequences.has_value() && steps.value_or(0) > 0) mean = *sequences / *steps;
  lines.push_back(Line(
      "step",
      absl::StrCat(looks.Quantiles("goldfinch_step_duration_seconds"), "; ",
                   RateText(looks.Rate(steps)), "/s of ", RateText(mean), " sequences")));
}

void AddCaches(const Looks& looks, std::vector<std::string>& lines) {
  lines.push_back(Line(
      "pages",
      absl::StrCat(Filling(looks, "goldfinch_cache_pages_used", "goldfinch_cache_pages"),
                   ", of running requests ",
                   CountText(looks.Level("goldfinch_cache_pages_running")))));
  lines.push_back(Line("state slots", Filling(looks, "goldfinch_state_slots_used",
                                              "goldfinch_state_slots")));
  if (looks.Level("goldfinch_expanded_pages").has_value()) {
    lines.push_back(Line(
        "arena",
        absl::StrCat(
            Filling(looks, "goldfinch_expanded_pages_used", "goldfinch_expanded_pages"),
            ", hits ",
            HitShare(looks.Gain("goldfinch_expanded_hits_total"),
                     looks.Gain("goldfinch_expanded_misses_total")),
            ", evicted ", RateText(looks.Rate("goldfinch_expanded_evictions_total")),
            "/s")));
  }
  lines.push_back(Line(
      "prefix cache",
      absl::StrCat(CountText(looks.Level("goldfinch_prefix_cache_entries")), " entries, ",
                   BytesText(looks.Level("goldfinch_prefix_cache_bytes")), " of ",
                   BytesText(looks.Level("goldfinch_prefix_cache_limit_bytes")),
                   ", hits ",
                   HitShare(looks.Gain("goldfinch_prefix_cache_hits_total"),
                            looks.GainOfAll("goldfinch_prefix_cache_misses_total")))));
}

void AddSessions(const Looks& looks, std::vector<std::string>& lines) {
  if (looks.now().All("goldfinch_sessions").empty()) return;
  lines.push_back(Line(
      "sessions",
      absl::StrCat(ByLabel(looks, "goldfinch_sessions", "place", CountText), ", stored ",
                   CountText(looks.Level("goldfinch_sessions_stored")), "; busy ",
                   CountText(looks.Level("goldfinch_sessions_busy")), ", host memory ",
                   BytesText(looks.Level("goldfinch_session_host_bytes")))));
}

void AddProcess(const Looks& looks, std::vector<std::string>& lines) {
  if (!looks.now().All("goldfinch_device_memory_bytes").empty()) {
    lines.push_back(Line(
        "device",
        absl::StrCat(BytesText(SumOfAll(looks, "goldfinch_device_memory_bytes")), " (",
                     ByLabel(looks, "goldfinch_device_memory_bytes", "use", BytesText),
                     ")")));
  }
  if (!looks.Level("process_resident_memory_bytes").has_value()) return;
  lines.push_back(Line(
      "process",
      absl::StrCat(BytesText(looks.Level("process_resident_memory_bytes")),
                   ", processors ", RateText(looks.Rate("process_cpu_seconds_total")),
                   ", files ", CountText(looks.Level("process_open_fds")), " of ",
                   CountText(looks.Level("process_max_fds")))));
}

// What the two looks say of each tenant under one name, of one kind where it is given. To
// search the series for every tenant would take the square of their number.
class TenantColumn {
 public:
  TenantColumn(const Looks& looks, absl::string_view name, absl::string_view kind = "")
      : looks_(looks), now_(Read(looks.now(), name, kind)) {
    if (looks.before() != nullptr) before_ = Read(*looks.before(), name, kind);
  }

  std::optional<double> Level(const std::string& tenant) const {
    return Find(now_, tenant);
  }
  std::optional<double> Rate(const std::string& tenant) const {
    const std::optional<double> from = Find(before_, tenant);
    const std::optional<double> to = Find(now_, tenant);
    if (!from.has_value() || !to.has_value() || !(*to >= *from)) return std::nullopt;
    return looks_.Rate(*to - *from);
  }

 private:
  using Values = std::unordered_map<std::string, double>;

  static Values Read(const MetricsText& metrics, absl::string_view name,
                     absl::string_view kind) {
    Values values;
    for (const MetricSeries& series : metrics.All(name)) {
      const std::string* tenant = series.Label("tenant");
      if (tenant == nullptr || !IsOfKind(series, kind)) continue;
      values.emplace(*tenant, series.value);
    }
    return values;
  }
  static std::optional<double> Find(const Values& values, const std::string& tenant) {
    const auto found = values.find(tenant);
    if (found == values.end()) return std::nullopt;
    return found->second;
  }

  const Looks& looks_;
  const Values now_;
  Values before_;
};

struct TenantRow {
  std::string name;
  double service = 0;  // in the time between the looks
  double total_service = 0;
  std::string line = {};
};

class TenantTable {
 public:
  explicit TenantTable(const Looks& looks)
      : running_(looks, "goldfinch_tenant_requests_running"),
        waiting_(looks, "goldfinch_tenant_requests_waiting"),
        prompt_(looks, "goldfinch_tenant_tokens_total", "prompt"),
        generated_(looks, "goldfinch_tenant_tokens_total", "generated"),
        service_(looks, "goldfinch_tenant_service_total"),
        refused_(looks, "goldfinch_tenant_refused_total") {}

  TenantRow Row(const std::string& tenant) const {
    constexpr std::size_t kNameColumns = 20;
    const std::optional<double> service = service_.Rate(tenant);
    TenantRow row{.name = Printable(tenant),
                  .service = service.value_or(0),
                  .total_service = service_.Level(tenant).value_or(0)};
    row.line = absl::StrFormat(
        "%-*s %8s %8s %9s %12s %10s %8s", static_cast<int>(kNameColumns),
        row.name.substr(0, kNameColumns), CountText(running_.Level(tenant)),
        CountText(waiting_.Level(tenant)), RateText(prompt_.Rate(tenant)),
        RateText(generated_.Rate(tenant)), RateText(service),
        CountText(refused_.Level(tenant)));
    return row;
  }

 private:
  const TenantColumn running_, waiting_, prompt_, generated_, service_, refused_;
};

// Who was served most comes first.
void AddTenants(const Looks& looks, std::vector<std::string>& lines) {
  const TenantTable table(looks);
  std::vector<TenantRow> rows;
  for (const MetricSeries& series :
       looks.now().All("goldfinch_tenant_requests_running")) {
    if (const std::string* tenant = series.Label("tenant"))
      rows.push_back(table.Row(*tenant));
  }
  if (rows.empty()) return;
  std::sort(rows.begin(), rows.end(), [](const TenantRow& a, const TenantRow& b) {
    if (a.service != b.service) return a.service > b.service;
    if (a.total_service != b.total_service) return a.total_service > b.total_service;
    return a.name < b.name;
  });
  lines.push_back("");
  lines.push_back(absl::StrFormat("%-20s %8s %8s %9s %12s %10s %8s", "TENANT", "RUNNING",
                                  "WAITING", "PROMPT/S", "GENERATED/S", "SERVICE/S",
                                  "REFUSED"));
  for (TenantRow& row : rows) lines.push_back(std::move(row.line));
}

}  // namespace

bool IsGoldFinch(const MetricsText& metrics) {
  return !metrics.All("goldfinch_build_info").empty();
}

bool Restarted(const TopSample& before, const TopSample& now) {
  const auto started = [](const TopSample& sample) {
    return sample.metrics.Find("process_start_time_seconds");
  };
  if (started(before).has_value() && started(now).has_value() &&
      std::abs(*started(now) - *started(before)) > kSameStartSeconds)
    return true;
  constexpr absl::string_view kCounter = "goldfinch_step_duration_seconds_count";
  return now.metrics.Find(kCounter).value_or(0) <
         before.metrics.Find(kCounter).value_or(0);
}

std::vector<std::string> TopLines(const std::string& address, const TopSample* before,
                                  const TopSample& now) {
  const bool restarted = before != nullptr && Restarted(*before, now);
  const Looks looks(restarted ? nullptr : before, now);
  std::vector<std::string> lines = {Heading(address, looks, restarted)};
  AddLoad(looks, lines);
  AddCaches(looks, lines);
  AddSessions(looks, lines);
  AddProcess(looks, lines);
  AddTenants(looks, lines);
  return lines;
}

}  // namespace goldfinch
