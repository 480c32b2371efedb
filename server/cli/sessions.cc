#include "server/cli/sessions.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "goldfinch/v1/session_service.grpc.pb.h"
#include "server/cli/caller.h"
#include "server/cli/print.h"
#include "server/cli/transfer.h"

namespace goldfinch {
namespace {

constexpr int kPageSize = 1000;  // the most there may be

using Stub = v1::SessionService::Stub;

// The session may be on any of the servers.
struct SessionsCaller : Caller<v1::SessionService> {
  using Caller::Caller;

  // A method about one session.
  template <typename Request, typename Response>
  grpc::Status CallAbout(const std::string& id, Response& response,
                         grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                      const Request&, Response*)) {
    Request request;
    request.set_session_id(id);
    return Call(request, response, method);
  }
};

void PrintNew(const SessionsFlags& flags, const v1::Session& session) {
  flags.json ? PrintJson(session) : Print(session.id() + "\n");
}

void PrintRow(const v1::Session& session) {
  const char* state = session.busy()          ? "busy"
                      : session.interrupted() ? "interrupted"
                                              : "-";
  const std::string idle =
      session.has_idle_time() ? ShortTime(Seconds(session.idle_time())) : "-";
  Print(absl::StrFormat("%-32s  %-7s  %10d  %12d  %6s  %s\n", session.id(),
                        PlaceName(session.place()), session.num_tokens(), session.bytes(),
                        idle, state));
}

int RunList(const SessionsFlags& flags) {
  SessionsCaller caller(flags.connection);
  v1::ListSessionsRequest request;
  request.set_page_size(kPageSize);
  bool headed = flags.json;
  do {
    v1::ListSessionsResponse response;
    const grpc::Status status = caller.Call(request, response, &Stub::ListSessions);
    if (!status.ok()) return caller.signals.Report(status);
    if (!headed) {
      Print(absl::StrFormat("%-32s  %-7s  %10s  %12s  %6s  %s\n", "ID", "PLACE", "TOKENS",
                            "BYTES", "IDLE", "STATE"));
    }
    headed = true;
    for (const v1::Session& session : response.sessions()) {
      flags.json ? PrintJson(session) : PrintRow(session);
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return 0;
}

int RunGet(const SessionsFlags& flags) {
  SessionsCaller caller(flags.connection);
  v1::GetSessionResponse response;
  const grpc::Status status = caller.CallAbout(flags.id, response, &Stub::GetSession);
  if (!status.ok()) return caller.signals.Report(status);
  flags.json ? PrintJson(response.session()) : Print(response.session().DebugString());
  return 0;
}

// The exit code; what both requests with a text have, if it was given.
template <typename Request>
int FillText(const SessionsFlags& flags, Request& request) {
  request.set_priority(flags.priority);
  if (!flags.tokens.empty()) {
    return ReadTokens(flags.tokens, *request.mutable_tokens()->mutable_ids());
  }
  std::optional<std::string> text;
  const int exit_code = ReadText(flags.prompt, text);
  if (!text.value_or("").empty()) request.set_text(*text);
  return exit_code;
}

int RunAppend(const SessionsFlags& flags) {
  v1::AppendToSessionRequest request;
  const int exit_code = FillText(flags, request);
  if (exit_code != 0) return exit_code;
  request.set_session_id(flags.id);
  SessionsCaller caller(flags.connection);
  v1::AppendToSessionResponse response;
  const grpc::Status status = caller.Call(request, response, &Stub::AppendToSession);
  if (status.ok() && flags.json) PrintJson(response.session());
  return caller.signals.Report(status);
}

int RunHistory(const SessionsFlags& flags) {
  SessionsCaller caller(flags.connection);
  v1::GetSessionHistoryRequest request;
  request.set_session_id(flags.id);
  request.set_first_token(flags.first_token);
  std::int64_t num_tokens = 0;
  do {
    v1::GetSessionHistoryResponse response;
    const grpc::Status status = caller.Call(request, response, &Stub::GetSessionHistory);
    if (!status.ok()) return caller.signals.Report(status);
    flags.json ? PrintJson(response) : Print(response.text());
    request.set_first_token(request.first_token() + response.tokens_size());
    num_tokens = response.num_tokens();
    if (response.tokens_size() == 0) break;  // also if it has become shorter meanwhile
  } while (request.first_token() < num_tokens);
  return 0;
}

int RunCreate(const SessionsFlags& flags) {
  v1::CreateSessionRequest request;
  const int exit_code = FillText(flags, request);
  if (exit_code != 0) return exit_code;
  SessionsCaller caller(flags.connection);
  v1::CreateSessionResponse response;
  const grpc::Status status = caller.Call(request, response, &Stub::CreateSession);
  if (status.ok()) PrintNew(flags, response.session());
  return caller.signals.Report(status);
}

int RunFork(const SessionsFlags& flags) {
  SessionsCaller caller(flags.connection);
  v1::ForkSessionResponse response;
  const grpc::Status status = caller.CallAbout(flags.id, response, &Stub::ForkSession);
  if (status.ok()) PrintNew(flags, response.session());
  return caller.signals.Report(status);
}

int RunPark(const SessionsFlags& flags) {
  SessionsCaller caller(flags.connection);
  v1::ParkSessionResponse response;
  const grpc::Status status = caller.CallAbout(flags.id, response, &Stub::ParkSession);
  if (status.ok() && flags.json) PrintJson(response.session());
  return caller.signals.Report(status);
}

int RunExport(const SessionsFlags& flags) {
  SessionsCaller caller(flags.connection);
  return ExportSession(caller.connection, caller.signals, caller.limits, flags.id,
                       flags.file);
}

int RunImport(const SessionsFlags& flags) {
  SessionsCaller caller(flags.connection);
  v1::Session imported;
  const int exit_code = ImportSession(caller.connection, caller.signals,
                                      caller.limits.deadline, flags.file, imported);
  if (exit_code == 0) PrintNew(flags, imported);
  return exit_code;
}

int RunDelete(const SessionsFlags& flags) {
  int exit_code = 0;
  SessionsCaller caller(flags.connection);
  for (const std::string& id : flags.ids) {
    v1::DeleteSessionResponse response;
    const grpc::Status status = caller.CallAbout(id, response, &Stub::DeleteSession);
    if (status.ok()) continue;
    exit_code = caller.signals.Report(grpc::Status(
        status.error_code(), absl::StrCat(id, ": ", status.error_message())));
    if (caller.signals.interrupted()) break;
  }
  return exit_code;
}

}  // namespace

void DiscardSession(Connection& connection, const std::string& id) {
  const Deadline deadline = DeadlineOf({.timeout = 1});
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  for (std::size_t tried = 0; tried < connection.num_servers(); ++tried) {
    const auto stub = v1::SessionService::NewStub(connection.Channel(deadline));
    if (!connection.reached()) return;
    grpc::ClientContext context;
    SetDeadline(deadline, context);
    v1::DeleteSessionResponse response;
    if (!WasRefused(stub->DeleteSession(&context, request, &response), connection))
      return;
    connection.Leave();
  }
}

std::string PlaceName(v1::SessionPlace place) {
  switch (place) {
    case v1::SESSION_PLACE_ALIVE:
      return "alive";
    case v1::SESSION_PLACE_RESTING:
      return "resting";
    case v1::SESSION_PLACE_PARKED:
      return "parked";
    default:
      return "unknown";
  }
}

std::string ShortTime(double seconds) {
  constexpr double kMinute = 60;
  constexpr double kHour = 60 * kMinute;
  constexpr double kDay = 24 * kHour;
  if (seconds < 10) return absl::StrFormat("%.1fs", seconds);
  if (seconds < kMinute) return absl::StrFormat("%.0fs", seconds);
  if (seconds < kHour) return absl::StrFormat("%.0fm", seconds / kMinute);
  if (seconds < kDay) return absl::StrFormat("%.0fh", seconds / kHour);
  return absl::StrFormat("%.0fd", seconds / kDay);
}

int RunSessions(const SessionsFlags& flags) {
  struct Action {
    const char* name;
    int (*run)(const SessionsFlags&);
  };
  constexpr Action kActions[] = {
      {"list", RunList},       {"get", RunGet},       {"create", RunCreate},
      {"fork", RunFork},       {"park", RunPark},     {"export", RunExport},
      {"import", RunImport},   {"delete", RunDelete}, {"append", RunAppend},
      {"history", RunHistory},
  };
  for (const Action& action : kActions) {
    if (flags.action == action.name) return action.run(flags);
  }
  return 1;  // main.cc reads no other
}

}  // namespace goldfinch
