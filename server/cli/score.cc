#include <cstdio>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/call.h"
#include "server/cli/commands.h"
#include "server/cli/signals.h"

namespace goldfinch {

// A line a token: id, log-probability, and "greedy" when it is the most probable one;
// then their sum.
int RunScore(const ScoreFlags& flags) {
  v1::ScoreRequest request;
  request.set_context_text(flags.context);
  request.set_continuation_text(flags.continuation);
  grpc::ClientContext context;
  SetDeadline(flags.connection, context);
  Signals signals;
  const Signals::Call call(signals, context);
  const auto stub = v1::GenerationService::NewStub(Connect(flags.connection));
  v1::ScoreResponse response;
  const grpc::Status status = stub->Score(&context, request, &response);
  if (!status.ok()) return signals.Report(status);
  for (const v1::TokenScore& token : response.tokens()) {
    std::printf("%d\t%.6f%s\n", token.token(), static_cast<double>(token.logprob()),
                token.is_greedy() ? "\tgreedy" : "");
  }
  std::printf("total\t%.6f%s\n", response.total_logprob(),
              response.is_greedy() ? "\tgreedy" : "");
  return 0;
}

}  // namespace goldfinch
