#include <cstdio>
#include <optional>
#include <string>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/caller.h"
#include "server/cli/commands.h"
#include "server/cli/input.h"
#include "server/cli/print.h"

namespace goldfinch {
namespace {

// Returns the exit code; what is wrong is told on standard error.
int FillRequest(const ScoreFlags& flags, v1::ScoreRequest& request) {
  const char* mistake = nullptr;
  if (!IsGiven(flags.continuation) && flags.continuation_tokens.empty()) {
    mistake = "--continuation is required";
  }
  if (IsStandardInput(flags.context) + IsStandardInput(flags.context_tokens) +
          IsStandardInput(flags.continuation) +
          IsStandardInput(flags.continuation_tokens) >
      1) {
    mistake = "standard input is given twice";
  }
  if (mistake != nullptr) {
    std::fprintf(stderr, "goldfinch: %s\n", mistake);
    return kUsageExit;
  }
  std::optional<std::string> context, continuation;
  int exit_code = ReadText(flags.context, context);
  if (context.has_value()) request.set_context_text(*context);
  if (exit_code == 0 && !flags.context_tokens.empty()) {
    exit_code = ReadTokens(flags.context_tokens,
                           *request.mutable_context_tokens()->mutable_ids());
  }
  if (exit_code == 0) exit_code = ReadText(flags.continuation, continuation);
  if (continuation.has_value()) request.set_continuation_text(*continuation);
  if (exit_code == 0 && !flags.continuation_tokens.empty()) {
    exit_code = ReadTokens(flags.continuation_tokens,
                           *request.mutable_continuation_tokens()->mutable_ids());
  }
  return exit_code;
}

}  // namespace

// A line a token: id, log-probability, and "greedy" when it is the most probable one;
// then their sum.
int RunScore(const ScoreFlags& flags) {
  v1::ScoreRequest request;
  if (const int exit_code = FillRequest(flags, request); exit_code != 0) return exit_code;
  Caller<v1::GenerationService> caller(flags.connection);
  v1::ScoreResponse response;
  const grpc::Status status =
      caller.Call(request, response, &v1::GenerationService::Stub::Score);
  if (!status.ok()) return caller.signals.Report(status);
  if (flags.json) {
    PrintJson(response);
    return 0;
  }
  for (const v1::TokenScore& token : response.tokens()) {
    std::printf("%d\t%.6f%s\n", token.token(), static_cast<double>(token.logprob()),
                token.is_greedy() ? "\tgreedy" : "");
  }
  std::printf("total\t%.6f%s\n", response.total_logprob(),
              response.is_greedy() ? "\tgreedy" : "");
  return 0;
}

}  // namespace goldfinch
