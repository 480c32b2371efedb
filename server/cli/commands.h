// The subcommands of the client program `goldfinch`: what each is told, and the function
// that runs it and returns the exit code (0 when all went well, 1 when not, 2
// (kUsageExit) for a wrong command line or text, 130 when interrupted). The command line
// is read in main.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "server/cli/input.h"
#include "server/cli/sampling.h"
#include "server/command_line.h"

namespace goldfinch {

// Of the environment; it has the key when no flag does.
inline constexpr char kKeyVariable[] = "GOLDFINCH_KEY";

struct ConnectionFlags {
  // HOST:PORT of servers that stand in for one another, with commas between.
  std::string server = "127.0.0.1:50051";
  double timeout = 0;    // seconds for the whole call; 0: none
  // For so long a call that no server takes up is made again; 0: each is asked once.
  std::int32_t retry_seconds = 0;
  std::string key = {};  // empty: none
  bool insecure_send_key = false;
  bool tls = false;
  std::string tls_ca =
      {};  // empty: whom the system trusts; with it, and with the next, TLS
  std::string tls_cert = {};
  std::string tls_key = {};
  std::string tls_server_name = {};  // empty: the host of `server`
};

struct GenerateFlags {
  ConnectionFlags connection;
  TextFlags prompt;
  TokenFlags tokens;
  std::string session;  // empty: none
  // Whose last generation goes on, after so many tokens of it; empty: none.
  std::string resume_session;
  std::int64_t tokens_received = 0;
  SamplingFlags sampling;
  std::optional<std::int32_t> logprobs;
  std::optional<std::int32_t> n;
  std::int32_t priority = 0;
  bool resume = true;
  bool json = false;
  bool stats = false;
};

struct ScoreFlags {
  ConnectionFlags connection;
  TextFlags context;
  TokenFlags context_tokens;
  TextFlags continuation;
  TokenFlags continuation_tokens;
  bool json = false;
};

struct TokenizeFlags {
  ConnectionFlags connection;
  std::string text = kStandardInput;
};

struct DetokenizeFlags {
  ConnectionFlags connection;
  TokenFlags tokens = {kStandardInput};
};

struct ModelFlags {
  ConnectionFlags connection;
};

struct HealthFlags {
  ConnectionFlags connection;
  double wait = 0;  // seconds to wait for SERVING
};

int RunGenerate(const GenerateFlags& flags);
int RunScore(const ScoreFlags& flags);
int RunTokenize(const TokenizeFlags& flags);
int RunDetokenize(const DetokenizeFlags& flags);
int RunModel(const ModelFlags& flags);
int RunHealth(const HealthFlags& flags);

}  // namespace goldfinch
