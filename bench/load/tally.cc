#include "bench/load/tally.h"

#include <cstddef>
#include <iterator>

#include "absl/status/status.h"

namespace goldfinch {
namespace {

double Seconds(LoadTime::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void Tally::Due(LoadTime due) {
  if (!window_.Has(due)) return;
  MutexLock lock(mu_);
  ++result_.requests;
}

void Tally::Refused(LoadTime due) {
  if (!window_.Has(due)) return;
  MutexLock lock(mu_);
  ++result_.refused;
}

void Tally::FirstTokens(LoadTime due, LoadTime now, std::int64_t prompt_tokens,
                        std::int64_t tokens) {
  MutexLock lock(mu_);
  if (window_.Has(due)) first_token_.push_back(Seconds(now - due));
  if (window_.Has(now)) result_.prompt_tokens += prompt_tokens;
  AddTokens(now, tokens);
}

void Tally::MoreTokens(LoadTime before, LoadTime now, std::int64_t tokens) {
  MutexLock lock(mu_);
  if (window_.Has(now)) gaps_.push_back(Seconds(now - before));
  AddTokens(now, tokens);
}

void Tally::AddTokens(LoadTime now, std::int64_t tokens) {
  if (!window_.Has(now)) return;
  result_.generated_tokens += tokens;
  ++result_.messages;
  gaps_.insert(gaps_.end(), static_cast<std::size_t>(tokens - 1), 0.0);
}

void Tally::Finished(LoadTime due) {
  if (!window_.Has(due)) return;
  MutexLock lock(mu_);
  ++result_.finished;
}

void Tally::Failed(LoadTime due, grpc::StatusCode code, bool answered) {
  if (!window_.Has(due)) return;
  MutexLock lock(mu_);
  ++result_.failed[StatusCodeName(code)];
  if (!answered) ++failed_unanswered_;
}

TenantResult Tally::Result(const std::string& name) const {
  MutexLock lock(mu_);
  TenantResult result = result_;
  result.name = name;
  std::int64_t failed = 0;
  for (const auto& [code, count] : result.failed) failed += count;
  result.cut = result.requests - result.finished - failed;
  result.unanswered = result.requests - failed_unanswered_ - std::ssize(first_token_);
  result.first_token = Summarize(first_token_);
  result.inter_token = Summarize(gaps_);
  return result;
}

std::string StatusCodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace goldfinch
