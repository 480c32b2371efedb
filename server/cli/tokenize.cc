#include <cstdio>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/caller.h"
#include "server/cli/commands.h"

namespace goldfinch {

// The ids on one line.
int RunTokenize(const TokenizeFlags& flags) {
  v1::TokenizeRequest request;
  request.set_text(flags.text);
  if (flags.text == kStandardInput) {
    const int exit_code = ReadText(flags.text, *request.mutable_text());
    if (exit_code != 0) return exit_code;
  }
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
