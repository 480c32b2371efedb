#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/commands.h"
#include "server/cli/generation.h"
#include "server/cli/input.h"
#include "server/cli/print.h"
#include "server/cli/resume_command.h"
#include "server/cli/sessions.h"
#include "server/cli/signals.h"

namespace goldfinch {
namespace {

// Returns the exit code; what is wrong is told on standard error.
int FillRequest(const GenerateFlags& flags, v1::GenerateRequest& request) {
  v1::SamplingParams& sampling = *request.mutable_sampling();
  if (!FillSampling(flags.sampling, sampling)) return kUsageExit;
  if (flags.logprobs) sampling.set_logprobs(*flags.logprobs);
  if (flags.n) sampling.set_n(*flags.n);
  request.set_priority(flags.priority);
  if (!flags.resume_session.empty()) {
    // Everything else is as it was; the server refuses flags that would change it.
    if (sampling.ByteSizeLong() == 0) request.clear_sampling();
    request.mutable_resume()->set_session_id(flags.resume_session);
    request.mutable_resume()->set_tokens_received(flags.tokens_received);
    return 0;
  }
  request.set_session(flags.session);
  if (!flags.tokens.empty()) {
    return ReadTokens(flags.tokens, *request.mutable_tokens()->mutable_ids());
  }
  // A session goes on by itself. What a script has on its standard input is no text for
  // it unless it is asked for: nothing takes it out of the session again.
  const bool asks = !IsGiven(flags.prompt) && flags.session.empty();
  std::optional<std::string> text;
  const int exit_code =
      ReadText(asks ? TextFlags{.text = kStandardInput} : flags.prompt, text);
  if (flags.session.empty() || !text.value_or("").empty()) request.set_text(*text);
  return exit_code;
}

// Shows messages as they come: one candidate as bare text, several each in one piece
// under its label, because their messages come interleaved; at the end, what there is of
// those that did not come to theirs.
class Printer {
 public:
  explicit Printer(const GenerateFlags& flags)
      : json_(flags.json), stats_(flags.stats), labelled_(flags.n.value_or(1) > 1) {}

  void Show(const v1::GenerateResponse& message) {
    if (json_) {
      PrintJson(message);
    } else if (labelled_) {
      Gather(message);
    } else {
      Print(message.text());
      shown_ = true;
    }
    if (!stats_) return;
    if (message.has_seed()) seed_ = message.seed();  // the same for all candidates
    if (message.has_usage()) {
      absl::StrAppend(
          &usage_, "candidate ", message.candidate(), ": ", UsageText(message.usage()),
          "; finish reason ",
          ShortName(v1::FinishReason_Name(message.finish_reason()), "FINISH_REASON_"),
          "\n");
    }
  }

  void End(const GenerationResult& result) const {
    if (shown_) Print("\n");
    for (std::size_t index = 0; index < texts_.size(); ++index) {
      if (!texts_[index].empty()) ShowCandidate(index);
    }
    if (seed_.has_value()) {
      std::fprintf(stderr, "seed: %llu\n", static_cast<unsigned long long>(*seed_));
    }
    std::fputs(usage_.c_str(), stderr);
    if (stats_ && result.num_resumed > 0) {
      std::fprintf(stderr, "interruptions: %d\n", result.num_resumed);
    }
  }

 private:
  void Gather(const v1::GenerateResponse& message) {
    const auto index = static_cast<std::size_t>(message.candidate());
    if (texts_.size() <= index) texts_.resize(index + 1);
    texts_[index] += message.text();
    if (!message.has_usage()) return;
    ShowCandidate(index);
    texts_[index].clear();
  }
  void ShowCandidate(std::size_t index) const {
    Print(absl::StrCat("--- candidate ", index, " ---\n", texts_[index], "\n"));
  }

  const bool json_;
  const bool stats_;
  const bool labelled_;
  bool shown_ = false;
  // Said when the text is over.
  std::optional<std::uint64_t> seed_;
  std::string usage_;
  std::vector<std::string> texts_;  // of candidates that were not shown yet
};

// How to resume by hand what is kept. A key that was a flag has to be one again.
void TellKept(const GenerateFlags& flags, const GenerationResult& result) {
  const char* const key = std::getenv(kKeyVariable);
  const bool with_key =
      !flags.connection.key.empty() && (key == nullptr || key != flags.connection.key);
  std::fprintf(
      stderr,
      "goldfinch: session %s keeps it; %lld tokens were received; it goes on with%s %s\n",
      result.kept_session.c_str(), static_cast<long long>(result.tokens_received),
      with_key ? " the same --key and" : "",
      ResumeCommand(flags, result.kept_session, result.tokens_received).c_str());
}

}  // namespace

int RunGenerate(const GenerateFlags& flags) {
  v1::GenerateRequest request;
  if (const int exit_code = FillRequest(flags, request); exit_code != 0) return exit_code;
  Signals signals;
  Connection connection(flags.connection, &signals);
  const GenerationOptions options = {.limits = LimitsOf(flags.connection),
                                     .resume = flags.resume};
  Printer printer(flags);
  const GenerationResult result =
      RunGeneration(connection, signals, request, options,
                    [&printer](const v1::GenerateResponse& message) {
                      printer.Show(message);
                      return !OutputIsLost();  // nobody reads the rest
                    });
  printer.End(result);
  // Of output that is lost main.cc tells.
  const bool given_up =
      OutputIsLost() && result.status.error_code() == grpc::StatusCode::CANCELLED;
  const int exit_code =
      given_up && !signals.interrupted() ? 0 : signals.Report(result.status);
  if (result.kept_session.empty()) return exit_code;
  const bool finished = result.status.ok() || given_up || exit_code == kInterruptedExit;
  if (!finished) {
    // Whatever one server says now, another or a later one may go on.
    TellKept(flags, result);
  } else if (flags.session.empty() && flags.resume_session.empty()) {
    // The interruption made it, of a call that had none.
    signals.Forget();
    DiscardSession(connection, result.kept_session);
  }
  return exit_code;
}

}  // namespace goldfinch
