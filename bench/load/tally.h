// What happened to the requests of one entry of a scenario, of those that belong to the
// measured window.
//
// A request belongs to the window in which it was due: when its arrival came, or when the
// one before it had ended. Its latency counts from there, so a refusal that had to be
// waited out, or a client that was late itself, is in it. A token belongs to the window
// in which it came; a prompt's tokens come with the first generated one.
//
// Gaps are between tokens as the client gets them: of k tokens in one message the first
// has the time since the message before, the others none.
//
// Threads: any.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "bench/load/percentiles.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

using LoadTime = std::chrono::steady_clock::time_point;

struct LoadWindow {
  LoadTime begin = {};
  LoadTime end = {};
  bool Has(LoadTime time) const { return begin <= time && time < end; }
};

struct TenantResult {
  std::string name;
  std::int64_t requests = 0;  // that were due
  std::int64_t finished = 0;
  std::int64_t refused = 0;  // times that one was refused and tried again later
  std::map<std::string, std::int64_t> failed;  // by status code
  // Neither finished nor failed when the run ended; of these, without a first token. The
  // latency of the latter is in no percentile.
  std::int64_t cut = 0;
  std::int64_t unanswered = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t generated_tokens = 0;
  std::int64_t messages = 0;  // that brought them
  LatencySummary first_token;
  LatencySummary inter_token;
};

class Tally {
 public:
  explicit Tally(const LoadWindow& window) : window_(window) {}

  // Of a request that was due at `due`.
  void Due(LoadTime due);
  void Refused(LoadTime due);
  void FirstTokens(LoadTime due, LoadTime now, std::int64_t prompt_tokens,
                   std::int64_t tokens);
  void MoreTokens(LoadTime before, LoadTime now, std::int64_t tokens);
  void Finished(LoadTime due);
  // `answered`: it had a first token.
  void Failed(LoadTime due, grpc::StatusCode code, bool answered);

  TenantResult Result(const std::string& name) const;

 private:
  void AddTokens(LoadTime now, std::int64_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const LoadWindow window_;

  mutable Mutex mu_;
  TenantResult result_ ABSL_GUARDED_BY(mu_);
  std::int64_t failed_unanswered_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<double> first_token_ ABSL_GUARDED_BY(mu_);
  std::vector<double> gaps_ ABSL_GUARDED_BY(mu_);
};

// "RESOURCE_EXHAUSTED".
std::string StatusCodeName(grpc::StatusCode code);

}  // namespace goldfinch
