#include <cstdio>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/caller.h"
#include "server/cli/commands.h"

namespace goldfinch {

// The text and a newline.
int RunDetokenize(const DetokenizeFlags& flags) {
  v1::DetokenizeRequest request;
  const int exit_code = ReadTokens(flags.tokens, *request.mutable_tokens());
  if (exit_code != 0) return exit_code;
  Caller<v1::GenerationService> caller(flags.connection);
  v1::DetokenizeResponse response;
  const grpc::Status status =
      caller.Call(request, response, &v1::GenerationService::Stub::Detokenize);
  if (!status.ok()) return caller.signals.Report(status);
  std::fwrite(response.text().data(), 1, response.text().size(), stdout);
  std::printf("\n");
  return 0;
}

}  // namespace goldfinch
