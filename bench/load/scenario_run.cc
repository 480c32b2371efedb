#include "bench/load/scenario_run.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/load/arrivals.h"
#include "bench/load/call_group.h"
#include "bench/load/prompt.h"
#include "bench/load/timetable.h"
#include "server/cli/channel.h"
#include "server/cli/retry_delay.h"

namespace goldfinch {
namespace {

using Clock = std::chrono::steady_clock;
using Stub = v1::GenerationService::Stub;

// Calls of an entry on one connection. Servers bound those; more would wait here.
constexpr std::int64_t kCallsPerConnection = 64;
// Of an entry with a rate: nobody knows how many calls will be open at once.
constexpr std::int64_t kConnectionsOfRate = 8;

Clock::duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(seconds));
}

// One request, however often it is sent.
struct Attempt {
  LoadTime due = {};
  std::uint64_t number = 0;
};

// What an entry sends on, and what.
struct Line {
  std::vector<std::unique_ptr<Stub>> stubs;
  RequestShape shape;
};

// The server has answered on each connection of the line.
absl::StatusOr<Line> Connect(const LoadTenant& tenant, ConnectionFlags flags) {
  flags.key = tenant.key;
  const absl::Status status = CheckConnection(flags);
  if (!status.ok()) return status;
  const std::int64_t connections =
      tenant.rate > 0
          ? kConnectionsOfRate
          : (tenant.concurrent + kCallsPerConnection - 1) / kCallsPerConnection;
  Line line;
  line.shape = {.prompt_tokens = tenant.prompt_tokens,
                .max_tokens = tenant.max_tokens,
                .priority = tenant.priority};
  for (std::int64_t i = 0; i < connections; ++i) {
    line.stubs.push_back(v1::GenerationService::NewStub(NewChannel(flags.server, flags)));
    const absl::StatusOr<std::int32_t> vocab_size = VocabularySize(*line.stubs.back());
    if (!vocab_size.ok()) return vocab_size.status();
    line.shape.vocab_size = *vocab_size;
  }
  return line;
}

// One entry of the scenario at work.
class Source {
 public:
  // What happens is told to each of `tallies`.
  Source(const LoadTenant& tenant, Line line, std::uint64_t seed,
         const LoadWindow& window, std::vector<Tally*> tallies, CallGroup& calls,
         Timetable& timetable)
      : tenant_(tenant),
        line_(std::move(line)),
        seed_(seed),
        window_(window),
        calls_(calls),
        timetable_(timetable),
        tallies_(std::move(tallies)),
        arrivals_(tenant.rate, seed) {}

  void Begin(LoadTime now) {
    if (is_open()) return ArriveAfter(now);
    for (std::int64_t i = 0; i < tenant_.concurrent; ++i) Want(now);
  }

  // Requests that the run waits for and that have not ended.
  std::int64_t num_awaited() const { return num_awaited_; }

 private:
  bool is_open() const { return tenant_.rate > 0; }
  bool IsAwaited(const Attempt& attempt) const {
    return is_open() && window_.Has(attempt.due);
  }

  template <typename What>
  void Tell(const What& what) {
    for (Tally* tally : tallies_) what(*tally);
  }

  // On the thread of the timetable, one after another.
  void ArriveAfter(LoadTime time) {
    const LoadTime due = time + FromSeconds(arrivals_.NextGap());
    timetable_.At(due, [this, due] {
      Want(due);
      ArriveAfter(due);
    });
  }

  void Want(LoadTime due) {
    const Attempt attempt{.due = due, .number = next_number_++};
    Tell([&](Tally& tally) { tally.Due(due); });
    if (IsAwaited(attempt)) ++num_awaited_;
    Send(attempt);
  }

  void Send(const Attempt& attempt) {
    Stub& stub = *line_.stubs[next_stub_++ % line_.stubs.size()];
    // When the last tokens came; none yet: the clock's beginning. Only its call's
    // callbacks look at it.
    const auto last = std::make_shared<LoadTime>();
    calls_.Start(stub, MakeRequest(line_.shape, seed_, attempt.number),
                 {.on_tokens =
                      [this, attempt, last](std::int64_t tokens) {
                        const LoadTime now = Clock::now();
                        Tell([&](Tally& tally) {
                          if (*last == LoadTime()) {
                            tally.FirstTokens(attempt.due, now, tenant_.prompt_tokens,
                                              tokens);
                          } else {
                            tally.MoreTokens(*last, now, tokens);
                          }
                        });
                        *last = now;
                      },
                  .on_end =
                      [this, attempt, last](const grpc::Status& status) {
                        End(attempt, status, /*answered=*/*last != LoadTime());
                      }});
  }

  void End(const Attempt& attempt, const grpc::Status& status, bool answered) {
    const LoadTime now = Clock::now();
    if (!status.ok() && calls_.cancelled()) return;  // with the run
    if (const auto delay = RetryDelay(status); delay.has_value() && !answered) {
      Tell([&](Tally& tally) { tally.Refused(attempt.due); });
      timetable_.At(now + *delay, [this, attempt] { Send(attempt); });
      return;
    }
    Tell([&](Tally& tally) {
      if (status.ok()) {
        tally.Finished(attempt.due);
      } else {
        tally.Failed(attempt.due, status.error_code(), answered);
      }
    });
    if (IsAwaited(attempt)) --num_awaited_;
    if (is_open()) return;
    if (status.ok()) return Want(now);
    const LoadTime later = now + kPauseAfterFailure;
    timetable_.At(later, [this, later] { Want(later); });
  }

  const LoadTenant tenant_;
  const Line line_;
  const std::uint64_t seed_;
  const LoadWindow window_;
  CallGroup& calls_;
  Timetable& timetable_;
  const std::vector<Tally*> tallies_;
  Arrivals arrivals_;
  std::atomic<std::size_t> next_stub_ = 0;
  std::atomic<std::uint64_t> next_number_ = 0;
  std::atomic<std::int64_t> num_awaited_ = 0;
};

// The tail: until nothing is awaited any more, or its time is over.
void WaitForAwaited(const std::vector<std::unique_ptr<Source>>& sources, LoadTime limit) {
  constexpr auto kBetweenLooks = std::chrono::milliseconds(10);
  const auto is_awaited = [](const auto& source) { return source->num_awaited() > 0; };
  while (std::ranges::any_of(sources, is_awaited) && Clock::now() < limit) {
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

}  // namespace

absl::StatusOr<ScenarioResult> RunScenario(const Scenario& scenario,
                                           const ConnectionFlags& connection,
                                           const TellProgress& tell) {
  std::vector<Line> lines;
  for (const LoadTenant& tenant : scenario.tenants) {
    absl::StatusOr<Line> line = Connect(tenant, connection);
    if (!line.ok()) {
      return absl::Status(line.status().code(),
                          absl::StrCat(tenant.name, ": ", line.status().message()));
    }
    lines.push_back(*std::move(line));
  }
  const LoadTime start = Clock::now();
  LoadWindow window;
  window.begin = start + FromSeconds(scenario.warmup_seconds);
  window.end = window.begin + FromSeconds(scenario.duration_seconds);
  // Before what uses them, which is gone when they go.
  std::vector<std::unique_ptr<Tally>> tallies;
  std::map<std::string, Tally> groups;
  std::vector<std::unique_ptr<Source>> sources;
  CallGroup calls;
  Timetable timetable;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const LoadTenant& tenant = scenario.tenants[i];
    tallies.push_back(std::make_unique<Tally>(window));
    std::vector<Tally*> told = {tallies.back().get()};
    if (!tenant.group.empty()) {
      told.push_back(&groups.try_emplace(tenant.group, window).first->second);
    }
    sources.push_back(std::make_unique<Source>(tenant, std::move(lines[i]),
                                               scenario.seed + 1000 * i, window,
                                               std::move(told), calls, timetable));
  }
  for (const auto& source : sources) source->Begin(start);
  std::this_thread::sleep_until(window.begin);
  tell("the window begins");
  std::this_thread::sleep_until(window.end);
  tell("the window ends");
  WaitForAwaited(sources, window.end + FromSeconds(scenario.tail_seconds));
  timetable.Stop();
  calls.CancelAll();
  calls.AwaitEnd();
  ScenarioResult result;
  result.window_seconds = scenario.duration_seconds;
  for (std::size_t i = 0; i < tallies.size(); ++i) {
    result.tenants.push_back(tallies[i]->Result(scenario.tenants[i].name));
  }
  for (const auto& [name, tally] : groups) result.groups.push_back(tally.Result(name));
  return result;
}

}  // namespace goldfinch
