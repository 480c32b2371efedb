#include <cstdio>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/caller.h"
#include "server/cli/commands.h"

namespace goldfinch {

// A line a token: id, log-probability, and "greedy" when it is the most probable one;
// then their sum.
int RunScore(const ScoreFlags& flags) {
  v1::ScoreRequest request;
  request.set_context_text(flags.context);
  request.set_continuation_text(flags.continuation);
  Caller<v1::GenerationService> caller(flags.connection);
  v1::ScoreResponse response;
  const grpc::Status status =
      caller.Call(request, response, &v1::GenerationService::Stub::Score);
  if (!status.ok()) return caller.signals.Report(status);
  for (const v1::TokenScore& token : response.tokens()) {
    std::printf("%d\t%.6f%s\n", token.token(), static_cast<double>(token.logprob()),
                token.is_greedy() ? "\tgreedy" : "");
  }
  std::printf("total\t%.6f%s\n", response.total_logprob(),
              response.is_greedy() ? "\tgreedy" : "");
  return 0;
}

}  // namespace goldfinch
