// The subcommands of the client program `goldfinch`: what each is told, and the function
// that runs it and returns the exit code (0 when all went well, 1 when not, 130 when
// interrupted). The command line itself is read in main.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace goldfinch {

struct ConnectionFlags {
  std::string server = "127.0.0.1:50051";
  double timeout = 0;  // seconds for the whole call; 0: none
};

// Optional ones are sent only when they were given, so that the server's defaults hold
// and its checks answer for them.
struct GenerateFlags {
  ConnectionFlags connection;
  std::optional<std::string> prompt;
  std::vector<std::int32_t> tokens;
  std::optional<std::int64_t> max_tokens;
  std::int64_t min_tokens = 0;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::int32_t top_k = 0;
  float min_p = 0;
  std::optional<float> repetition_penalty;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_token_ids;
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  std::vector<std::string> logit_bias;  // "ID:VALUE"
  std::optional<std::int32_t> logprobs;
  std::optional<std::int32_t> n;
  std::int32_t priority = 0;
  bool json = false;
  bool stats = false;
};

struct ScoreFlags {
  ConnectionFlags connection;
  std::string context;
  std::string continuation;
};

struct TokenizeFlags {
  ConnectionFlags connection;
  std::optional<std::string> text;  // none: standard input
};

struct DetokenizeFlags {
  ConnectionFlags connection;
  std::vector<std::int32_t> tokens;
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
