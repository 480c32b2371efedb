#include "bench/load/report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/load/percentiles.h"

namespace goldfinch {
namespace {

using Json = nlohmann::ordered_json;

Json JsonOf(const LatencySummary& summary) {
  return {{"count", summary.count},
          {"p50", summary.p50},
          {"p90", summary.p90},
          {"p99", summary.p99},
          {"max", summary.max}};
}

std::string Milliseconds(const LatencySummary& summary) {
  if (summary.count == 0) return absl::StrFormat("%9s %9s %9s", "-", "-", "-");
  return absl::StrFormat("%9.2f %9.2f %9.2f", summary.p50 * 1e3, summary.p90 * 1e3,
                         summary.p99 * 1e3);
}

// "2 UNAVAILABLE, 1 INTERNAL".
std::string CodesText(const std::map<std::string, std::int64_t>& failed) {
  std::string text;
  for (const auto& [code, count] : failed) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", count, " ", code);
  }
  return text;
}

Json JsonOf(const TenantResult& tenant) {
  return {{"name", tenant.name},
          {"requests", tenant.requests},
          {"finished", tenant.finished},
          {"refused", tenant.refused},
          {"failed", tenant.failed},
          {"cut", tenant.cut},
          {"unanswered", tenant.unanswered},
          {"prompt_tokens", tenant.prompt_tokens},
          {"generated_tokens", tenant.generated_tokens},
          {"messages", tenant.messages},
          {"first_token_seconds", JsonOf(tenant.first_token)},
          {"inter_token_seconds", JsonOf(tenant.inter_token)}};
}

void AppendRow(const TenantResult& tenant, const std::string& share, std::string& text) {
  std::int64_t failed = 0;
  for (const auto& [code, count] : tenant.failed) failed += count;
  absl::StrAppendFormat(&text, "%-16s %8d %8d %8d %6d %6d %10d %10d %7s  %s  %s\n",
                        tenant.name, tenant.requests, tenant.finished, tenant.refused,
                        failed, tenant.cut, tenant.prompt_tokens, tenant.generated_tokens,
                        share, Milliseconds(tenant.first_token),
                        Milliseconds(tenant.inter_token));
  if (failed > 0) absl::StrAppend(&text, "  failed: ", CodesText(tenant.failed), "\n");
  if (tenant.unanswered > 0) {
    absl::StrAppend(&text, "  without a first token at the end: ", tenant.unanswered,
                    "\n");
  }
}

// Of prompt and generated tokens together, and of generated ones alone.
struct TokenShares {
  std::vector<double> all;
  std::vector<double> generated;
};

TokenShares SharesOf(const ScenarioResult& result) {
  std::vector<std::int64_t> all, generated;
  for (const TenantResult& tenant : result.tenants) {
    all.push_back(tenant.prompt_tokens + tenant.generated_tokens);
    generated.push_back(tenant.generated_tokens);
  }
  return {Shares(all), Shares(generated)};
}

struct Totals {
  double tokens_per_second = 0;
  double generated_tokens_per_second = 0;
};

Totals TotalsOf(const ScenarioResult& result) {
  Totals totals;
  for (const TenantResult& tenant : result.tenants) {
    const auto generated = static_cast<double>(tenant.generated_tokens);
    totals.generated_tokens_per_second += generated / result.window_seconds;
    totals.tokens_per_second +=
        (generated + static_cast<double>(tenant.prompt_tokens)) / result.window_seconds;
  }
  return totals;
}

}  // namespace

std::string ReportText(const ScenarioResult& result) {
  const TokenShares shares = SharesOf(result);
  const Totals totals = TotalsOf(result);
  std::string text = absl::StrFormat(
      "%-16s %8s %8s %8s %6s %6s %10s %10s %7s  %9s %9s %9s  %9s %9s %9s\n", "tenant",
      "requests", "finished", "refused", "failed", "cut", "prompt", "generated", "share",
      "first p50", "p90", "p99 ms", "next p50", "p90", "p99 ms");
  for (std::size_t i = 0; i < result.tenants.size(); ++i) {
    AppendRow(result.tenants[i], absl::StrFormat("%6.2f%%", 100 * shares.all[i]), text);
  }
  for (const TenantResult& group : result.groups) AppendRow(group, "group", text);
  absl::StrAppendFormat(&text, "%.0f tokens/s, %.0f of them generated, over %g s\n",
                        totals.tokens_per_second, totals.generated_tokens_per_second,
                        result.window_seconds);
  return text;
}

std::string ReportJson(const ScenarioResult& result) {
  const TokenShares shares = SharesOf(result);
  const Totals totals = TotalsOf(result);
  Json tenants = Json::array();
  for (std::size_t i = 0; i < result.tenants.size(); ++i) {
    tenants.push_back(JsonOf(result.tenants[i]));
    tenants.back()["share"] = shares.all[i];
    tenants.back()["generated_share"] = shares.generated[i];
  }
  Json groups = Json::array();
  for (const TenantResult& group : result.groups) groups.push_back(JsonOf(group));
  const Json json = {{"window_seconds", result.window_seconds},
                     {"tokens_per_second", totals.tokens_per_second},
                     {"generated_tokens_per_second", totals.generated_tokens_per_second},
                     {"tenants", tenants},
                     {"groups", groups}};
  return json.dump() + "\n";
}

std::string ReportText(const ConnectionsResult& result) {
  std::string text = absl::StrFormat(
      "connections  %d open in %.2f s, %d of them used, %d open at the end\n"
      "calls        %d finished, %d times refused\n"
      "tokens       %d\n",
      result.opened, result.open_seconds, result.used, result.open_at_end,
      result.finished, result.refused, result.generated_tokens);
  if (!result.failed.empty()) {
    absl::StrAppend(&text, "failed       ", CodesText(result.failed), "\n");
  }
  return text;
}

std::string ReportJson(const ConnectionsResult& result) {
  const Json json = {
      {"opened", result.opened},     {"open_seconds", result.open_seconds},
      {"used", result.used},         {"open_at_end", result.open_at_end},
      {"finished", result.finished}, {"refused", result.refused},
      {"failed", result.failed},     {"generated_tokens", result.generated_tokens}};
  return json.dump() + "\n";
}

}  // namespace goldfinch
