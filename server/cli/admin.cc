#include "server/cli/admin.h"

#include <array>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "goldfinch/v1/admin_service.grpc.pb.h"
#include "server/cli/call.h"
#include "server/cli/print.h"
#include "server/cli/sessions.h"

namespace goldfinch {
namespace {

constexpr int kPageSize = 1000;  // the most there may be

using Stub = v1::AdminService::Stub;

template <typename Request, typename Response>
grpc::Status Call(Stub& stub, const AdminFlags& flags, const Request& request,
                  Response& response,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                               Response*)) {
  grpc::ClientContext context;
  SetDeadline(flags.connection, context);
  return (stub.*method)(&context, request, &response);
}

// A port for callers knows none of these methods, and has no word for that.
int ReportAdmin(const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::UNIMPLEMENTED) return Report(status);
  return Report({status.error_code(), "this is not an admin port (see --admin_listen)"});
}

void PrintHead() {
  Print(absl::StrFormat("%8s  %-16s  %-8s  %-8s  %10s  %10s  %10s  %10s  %6s\n", "ID",
                        "TENANT", "KIND", "STATE", "PROMPT", "READ", "GENERATED", "MAX",
                        "AGE"));
}

void PrintRow(const v1::RequestInfo& request) {
  Print(absl::StrFormat(
      "%8d  %-16s  %-8s  %-8s  %10d  %10d  %10d  %10d  %6s\n", request.id(),
      request.tenant(),
      ShortName(v1::RequestKind_Name(request.kind()), "REQUEST_KIND_"),
      ShortName(v1::RequestState_Name(request.state()), "REQUEST_STATE_"),
      request.prompt_tokens(), request.read_prompt_tokens(), request.generated_tokens(),
      request.max_tokens(), ShortTime(Seconds(request.age()))));
}

int RunDrain(Stub& stub, const AdminFlags& flags) {
  v1::DrainRequest request;
  request.set_hurry(flags.hurry);
  v1::DrainResponse response;
  return ReportAdmin(Call(stub, flags, request, response, &Stub::Drain));
}

int RunReload(Stub& stub, const AdminFlags& flags) {
  v1::ReloadResponse response;
  const grpc::Status status =
      Call(stub, flags, v1::ReloadRequest(), response, &Stub::Reload);
  if (status.ok()) Print(absl::StrCat(response.num_tenants(), " tenants\n"));
  return ReportAdmin(status);
}

int RunRequests(Stub& stub, const AdminFlags& flags) {
  const Deadline deadline = DeadlineOf(flags.connection);
  v1::ListRequestsRequest request;
  request.set_tenant(flags.tenant);
  request.set_page_size(kPageSize);
  bool headed = flags.json;
  do {
    grpc::ClientContext context;
    SetDeadline(deadline, context);
    v1::ListRequestsResponse response;
    const grpc::Status status = stub.ListRequests(&context, request, &response);
    if (!status.ok()) return ReportAdmin(status);
    if (!headed) PrintHead();
    headed = true;
    for (const v1::RequestInfo& info : response.requests()) {
      flags.json ? PrintJson(info) : PrintRow(info);
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return 0;
}

int RunCancel(Stub& stub, const AdminFlags& flags) {
  int exit_code = 0;
  for (const std::uint64_t id : flags.ids) {
    v1::CancelRequestRequest request;
    request.set_id(id);
    v1::CancelRequestResponse response;
    const grpc::Status status =
        Call(stub, flags, request, response, &Stub::CancelRequest);
    if (!status.ok()) exit_code = ReportAdmin(status);
  }
  return exit_code;
}

int RunLogLevel(Stub& stub, const AdminFlags& flags) {
  v1::LogLevel level = v1::LOG_LEVEL_UNSPECIFIED;
  v1::LogLevel_Parse("LOG_LEVEL_" + absl::AsciiStrToUpper(flags.level), &level);
  v1::SetLogLevelRequest request;
  request.set_level(level);
  v1::SetLogLevelResponse response;
  const grpc::Status status = Call(stub, flags, request, response, &Stub::SetLogLevel);
  if (status.ok()) {
    const std::string name = v1::LogLevel_Name(response.previous_level());
    Print(absl::StrCat("was ", ShortName(name, "LOG_LEVEL_"), "\n"));
  }
  return ReportAdmin(status);
}

}  // namespace

int RunAdmin(const AdminFlags& flags) {
  struct Action {
    const char* name;
    int (*run)(Stub& stub, const AdminFlags& flags);
  };
  constexpr std::array kActions = {
      Action{"drain", RunDrain},       Action{"reload", RunReload},
      Action{"requests", RunRequests}, Action{"cancel", RunCancel},
      Action{"log_level", RunLogLevel},
  };
  const std::unique_ptr<Stub> stub = v1::AdminService::NewStub(Connect(flags.connection));
  for (const Action& action : kActions) {
    if (flags.action == action.name) return action.run(*stub, flags);
  }
  return 1;  // main.cc reads no other
}

}  // namespace goldfinch
