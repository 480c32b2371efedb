#include <cstdio>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/call.h"
#include "server/cli/commands.h"

namespace goldfinch {

// The text and a newline.
int RunDetokenize(const DetokenizeFlags& flags) {
  v1::DetokenizeRequest request;
  request.mutable_tokens()->Add(flags.tokens.begin(), flags.tokens.end());
  grpc::ClientContext context;
  SetDeadline(flags.connection, context);
  const auto stub = v1::GenerationService::NewStub(Connect(flags.connection));
  v1::DetokenizeResponse response;
  const grpc::Status status = stub->Detokenize(&context, request, &response);
  if (!status.ok()) return Report(status);
  std::fwrite(response.text().data(), 1, response.text().size(), stdout);
  std::printf("\n");
  return 0;
}

}  // namespace goldfinch
