#include <cstdio>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/call.h"
#include "server/cli/commands.h"

namespace goldfinch {

// A line a field, named as in the contract.
int RunModel(const ModelFlags& flags) {
  grpc::ClientContext context;
  SetDeadline(flags.connection, context);
  const auto stub = v1::GenerationService::NewStub(Connect(flags.connection));
  v1::GetModelResponse response;
  const grpc::Status status = stub->GetModel(&context, {}, &response);
  if (!status.ok()) return Report(status);
  std::fputs(response.DebugString().c_str(), stdout);
  return 0;
}

}  // namespace goldfinch
