#include <cstdio>
#include <optional>
#include <string>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/call.h"
#include "server/cli/caller.h"
#include "server/cli/commands.h"

namespace goldfinch {

// The ids on one line.
int RunTokenize(const TokenizeFlags& flags) {
  v1::TokenizeRequest request;
  const std::optional<std::string> text = flags.text ? flags.text : ReadStandardInput();
  if (!text.has_value()) return kUsageExit;
  request.set_text(*text);
  Caller<v1::GenerationService> caller(flags.connection);
  v1::TokenizeResponse response;
  const grpc::Status status =
      caller.Call(request, response, &v1::GenerationService::Stub::Tokenize);
  if (!status.ok()) return caller.signals.Report(status);
  const char* separator = "";
  for (const std::int32_t token : response.tokens()) {
    std::printf("%s%d", separator, token);
    separator = " ";
  }
  std::printf("\n");
  return 0;
}

}  // namespace goldfinch
