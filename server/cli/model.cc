#include <cstdio>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/caller.h"
#include "server/cli/commands.h"

namespace goldfinch {

// A line a field, named as in the contract.
int RunModel(const ModelFlags& flags) {
  Caller<v1::GenerationService> caller(flags.connection);
  v1::GetModelResponse response;
  const grpc::Status status = caller.Call(v1::GetModelRequest(), response,
                                          &v1::GenerationService::Stub::GetModel);
  if (!status.ok()) return caller.signals.Report(status);
  std::fputs(response.DebugString().c_str(), stdout);
  return 0;
}

}  // namespace goldfinch
