#include "server/cli/chat.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "goldfinch/v1/session_service.grpc.pb.h"
#include "server/cli/call.h"
#include "server/cli/caller.h"
#include "server/cli/generation.h"
#include "server/cli/input.h"
#include "server/cli/line_reader.h"
#include "server/cli/print.h"
#include "server/cli/retry.h"
#include "server/cli/sessions.h"
#include "server/cli/signals.h"
#include "server/cli/transfer.h"

namespace goldfinch {
namespace {

constexpr char kHelp[] =
    "A line is added to the session as it is, and what follows is its continuation.\n"
    "/undo         takes the last line and its answer back: goes on in a copy of the\n"
    "              session from before, and prints its id\n"
    "/retry        does the same and answers the line again\n"
    "/fork         goes on in a copy of the session\n"
    "/park         stores the session; the next line brings it back\n"
    "/stats        where the session is, its size, and what the last answer took\n"
    "/session      its id\n"
    "/export FILE  writes it to a file\n"
    "/help         this\n"
    "/quit         ends the chat; the session stays\n"
    "//...         text that begins with a slash\n"
    "Ctrl-C ends an answer; what was said of it stays in the session.\n";

// How long a server may take to notice that an answer was cancelled.
constexpr auto kSettleLimit = std::chrono::seconds(5);
constexpr auto kBetweenLooks = std::chrono::milliseconds(20);

// The session of one chat.
class Chat {
 public:
  explicit Chat(const ChatFlags& flags)
      : flags_(flags),
        connection_(flags.connection, &signals_),
        terminal_(isatty(STDIN_FILENO) == 1),
        lines_(signals_),
        session_(flags.session),
        patience_(LimitsOf(flags.connection).patience) {}

  int Run();

 private:
  int Begin();
  int Talk();
  bool ReadLine(std::string& line);
  // These return the exit code of what they did.
  int Answer(const std::string& text);
  int Command(absl::string_view line);
  int Undo();
  int Retry();
  int Fork();
  int Park();
  int Stats();
  int Export(absl::string_view file);

  // A session that was left for another one.
  struct Left {
    std::string id;
    bool ours;
  };

  void KeepBefore();
  void ForgetBefore();
  std::optional<Left> GoBack();
  grpc::Status GetSession(v1::Session& session);
  void WaitUntilSettled();
  template <typename Request, typename Response, typename Method>
  grpc::Status Call(const Request& request, Response& response, const Method& method,
                    std::chrono::seconds patience);
  template <typename Request, typename Response, typename Method>
  grpc::Status Call(const Request& request, Response& response, const Method& method) {
    return Call(request, response, method, patience_);
  }
  CallLimits NewLimits() const { return NewLimits(patience_); }
  CallLimits NewLimits(std::chrono::seconds patience) const {
    return {.deadline = DeadlineOf(flags_.connection), .patience = patience};
  }

  const ChatFlags& flags_;
  Signals signals_;  // before the first channel
  Connection connection_;
  const bool terminal_;
  LineReader lines_;
  std::string session_;
  bool ours_ = false;  // this chat has made it
  // The session as it was before the last line, in a copy that nobody else knows of;
  // empty: there is none.
  std::string before_;
  std::string line_;           // the last one
  bool told_refused_ = false;  // that there is no copy
  std::uint64_t num_answers_ = 0;
  v1::SamplingParams sampling_;
  // An address that is wrong is told at once; a chat that goes on waits.
  std::chrono::seconds patience_;
  std::optional<v1::Usage> usage_;  // of the last answer, if it came to its end
};

int Chat::Run() {
  if (!FillSampling(flags_.sampling, sampling_)) return kUsageExit;
  if (IsStandardInput(flags_.prompt)) {
    std::fputs("goldfinch: standard input has the lines; give --prompt_file\n", stderr);
    return kUsageExit;
  }
  if (const int exit_code = Begin(); exit_code != 0) return exit_code;
  const int exit_code = Talk();
  signals_.Forget();
  ForgetBefore();
  return exit_code;
}

int Chat::Talk() {
  for (std::string line; ReadLine(line) && line != "/quit";) {
    const bool is_command = line.starts_with('/') && !line.starts_with("//");
    const int done = is_command ? Command(absl::string_view(line).substr(1))
                                : Answer(std::string(absl::StripPrefix(line, "/")));
    if (signals_.terminated()) return kInterruptedExit;
    // An answer that the user broke off is no failure. Nobody but a terminal's user can
    // see another one and tell what the lines after it are still good for.
    if (done != 0 && done != kInterruptedExit && !terminal_) return done;
  }
  const bool broken_off = signals_.interrupted() || signals_.terminated();
  return broken_off ? kInterruptedExit : 0;
}

// Makes the session, or looks whether it is there.
int Chat::Begin() {
  grpc::Status status;
  v1::Session session;
  if (session_.empty()) {
    v1::CreateSessionRequest request;
    std::optional<std::string> text;
    const int exit_code = ReadText(flags_.prompt, text);
    if (exit_code != 0) return exit_code;
    if (!text.value_or("").empty()) request.set_text(*text);
    request.set_priority(flags_.priority);
    v1::CreateSessionResponse response;
    status = Call(request, response, &v1::SessionService::Stub::CreateSession);
    session = response.session();
  } else {
    status = GetSession(session);
  }
  if (!status.ok()) return signals_.Report(status);
  ours_ = session_.empty();
  session_ = session.id();
  patience_ = std::max(patience_, kThroughARestart);
  if (terminal_) {
    std::fprintf(stderr, "session %s, %lld tokens; /help lists the commands\n",
                 session_.c_str(), static_cast<long long>(session.num_tokens()));
  }
  return 0;
}

bool Chat::ReadLine(std::string& line) {
  signals_.Forget();
  if (signals_.terminated()) return false;
  if (terminal_) std::fputs("> ", stderr);
  const bool read = lines_.Read(line);
  if (!read && terminal_) std::fputs("\n", stderr);
  return read;
}

int Chat::Answer(const std::string& text) {
  if (text.empty()) return 0;
  if (const std::string mistake = TextMistake(text); !mistake.empty()) {
    std::fprintf(stderr, "goldfinch: %s\n", mistake.c_str());
    return kUsageExit;
  }
  KeepBefore();
  line_ = text;
  v1::GenerateRequest request;
  request.set_session(session_);
  request.set_text(text);
  *request.mutable_sampling() = sampling_;
  // Else each answer would be drawn with the numbers of the one before, and that to
  // /retry would be the same again.
  if (sampling_.has_seed()) {
    request.mutable_sampling()->set_seed(sampling_.seed() + num_answers_);
  }
  ++num_answers_;
  request.set_priority(flags_.priority);
  usage_.reset();
  bool shown = false;
  const GenerationResult result =
      RunGeneration(connection_, signals_, request, {.limits = NewLimits()},
                    [this, &shown](const v1::GenerateResponse& message) {
                      shown = true;
                      Print(message.text());
                      if (message.has_usage()) usage_ = message.usage();
                      return true;
                    });
  if (shown) Print("\n");
  const int exit_code = signals_.Report(result.status);
  const grpc::StatusCode code = result.status.error_code();
  if (code == grpc::StatusCode::CANCELLED ||
      code == grpc::StatusCode::DEADLINE_EXCEEDED) {
    WaitUntilSettled();
  }
  return exit_code;
}

int Chat::Command(absl::string_view line) {
  const std::size_t space = line.find(' ');
  const absl::string_view name = line.substr(0, space);
  const absl::string_view argument =
      space == absl::string_view::npos ? "" : line.substr(space + 1);
  if (name == "export" && !argument.empty()) return Export(argument);
  if (argument.empty()) {
    if (name == "undo") return Undo();
    if (name == "retry") return Retry();
    if (name == "fork") return Fork();
    if (name == "park") return Park();
    if (name == "stats") return Stats();
    if (name == "session") return Print(session_ + "\n"), 0;
    if (name == "help") return Print(kHelp), 0;
  }
  std::fprintf(stderr, "goldfinch: /%s is no command; /help lists them\n",
               std::string(line).c_str());
  return 1;
}

int Chat::Fork() {
  v1::ForkSessionRequest request;
  request.set_session_id(session_);
  v1::ForkSessionResponse response;
  const grpc::Status status =
      Call(request, response, &v1::SessionService::Stub::ForkSession);
  if (!status.ok()) return signals_.Report(status);
  session_ = response.session().id();
  ours_ = false;  // the user has its id, and may want it
  Print(session_ + "\n");
  return 0;
}

// One copy at a time, since a caller may have so many sessions; and whoever may have no
// more goes on without.
void Chat::KeepBefore() {
  ForgetBefore();
  v1::ForkSessionRequest request;
  request.set_session_id(session_);
  v1::ForkSessionResponse response;
  // The line itself waits for a server, if it must.
  const grpc::Status status =
      Call(request, response, &v1::SessionService::Stub::ForkSession, kEachServerOnce);
  if (status.ok()) {
    before_ = response.session().id();
    told_refused_ = false;
  } else if (!signals_.interrupted() && !told_refused_) {
    Report({status.error_code(),
            absl::StrCat("no /undo and /retry: ", status.error_message())});
    told_refused_ = true;
  }
}

void Chat::ForgetBefore() {
  if (!before_.empty()) DiscardSession(connection_, before_);
  before_.clear();
}

// None, and told, when there is nothing to go back to.
std::optional<Chat::Left> Chat::GoBack() {
  if (before_.empty()) {
    std::fputs("goldfinch: there is no line to take back\n", stderr);
    return std::nullopt;
  }
  Left left{std::exchange(session_, std::exchange(before_, "")),
            std::exchange(ours_, true)};
  usage_.reset();
  return left;
}

// A session that was there before this chat stays as it is.
int Chat::Undo() {
  const std::optional<Left> left = GoBack();
  if (!left.has_value()) return 1;
  if (left->ours) DiscardSession(connection_, left->id);
  Print(session_ + "\n");
  return 0;
}

int Chat::Retry() {
  const std::optional<Left> left = GoBack();
  if (!left.has_value()) return 1;
  const int exit_code = Answer(std::string(line_));
  if (exit_code != 0 && exit_code != kInterruptedExit) {
    // The old answer stays where there is no new one.
    DiscardSession(connection_, session_);
    session_ = left->id;
    ours_ = left->ours;
  } else if (left->ours) {
    DiscardSession(connection_, left->id);
  }
  if (terminal_) std::fprintf(stderr, "session %s\n", session_.c_str());
  return exit_code;
}

int Chat::Park() {
  ForgetBefore();  // it would keep the memory
  v1::ParkSessionRequest request;
  request.set_session_id(session_);
  v1::ParkSessionResponse response;
  return signals_.Report(Call(request, response, &v1::SessionService::Stub::ParkSession));
}

int Chat::Stats() {
  v1::Session session;
  const grpc::Status status = GetSession(session);
  if (!status.ok()) return signals_.Report(status);
  const std::string idle =
      session.has_idle_time()
          ? absl::StrCat(", idle for ", ShortTime(Seconds(session.idle_time())))
          : "";
  Print(absl::StrFormat("session: %s, %d tokens, %d bytes%s\n",
                        PlaceName(session.place()), session.num_tokens(), session.bytes(),
                        idle));
  if (usage_.has_value()) Print(absl::StrCat("last answer: ", UsageText(*usage_), "\n"));
  if (session.interrupted()) {
    Print(absl::StrFormat("last answer: broken off after %d tokens\n",
                          session.generated_tokens()));
  }
  return 0;
}

int Chat::Export(absl::string_view file) {
  return ExportSession(connection_, signals_, NewLimits(), session_, std::string(file));
}

template <typename Request, typename Response, typename Method>
grpc::Status Chat::Call(const Request& request, Response& response, const Method& method,
                        std::chrono::seconds patience) {
  return CallMethod<v1::SessionService>(connection_, signals_, NewLimits(patience),
                                        request, response, method);
}

grpc::Status Chat::GetSession(v1::Session& session) {
  v1::GetSessionRequest request;
  request.set_session_id(session_);
  v1::GetSessionResponse response;
  const grpc::Status status =
      Call(request, response, &v1::SessionService::Stub::GetSession);
  session = response.session();
  return status;
}

// The server hears of a cancelled call a little later; until then it refuses others.
void Chat::WaitUntilSettled() {
  signals_.Forget();
  const auto limit = std::chrono::steady_clock::now() + kSettleLimit;
  v1::Session session;
  do {
    std::this_thread::sleep_for(kBetweenLooks);
  } while (GetSession(session).ok() && session.busy() &&
           std::chrono::steady_clock::now() < limit);
}

}  // namespace

int RunChat(const ChatFlags& flags) { return Chat(flags).Run(); }

}  // namespace goldfinch
