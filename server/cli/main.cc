// goldfinch: the client program. Reads the command line and runs one subcommand; sampling
// flags carry the names of the contract. Exit code 2 means that the command line was
// wrong.
#include <grpc/support/log.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "engine/kernels/cpu/tables.h"
#include "engine/model/dtype_names.h"
#include "server/cli/admin.h"
#include "server/cli/call.h"
#include "server/cli/channel.h"
#include "server/cli/chat.h"
#include "server/cli/commands.h"
#include "server/cli/input.h"
#include "server/cli/options.h"
#include "server/cli/perplexity.h"
#include "server/cli/sampling.h"
#include "server/cli/sessions.h"
#include "server/cli/top.h"
#include "server/cli/verify.h"
#include "server/command_line.h"
#include "server/version.h"

namespace goldfinch {
namespace {

CLI::App* AddGenerate(CLI::App& app, GenerateFlags& flags) {
  CLI::App* command =
      app.add_subcommand("generate", "Streams the continuation of a prompt");
  AddPatientConnection(*command, flags.connection);
  const TextOptionPair prompt =
      AddText(*command, "--prompt", flags.prompt,
              "Text to continue; -, and without a session the default: standard input, "
              "less a newline at its end");
  CLI::Option* tokens = AddTokens(*command, "--tokens", flags.tokens, prompt);
  auto* session =
      command
          ->add_option("--session", flags.session,
                       "Session to continue; without a text it goes on by itself")
          ->check(Utf8());
  auto* resume = command
                     ->add_option("--resume_session", flags.resume_session,
                                  "Session whose last generation goes on, as it was "
                                  "asked for, where it was broken off")
                     ->check(Utf8())
                     ->excludes(prompt.text)
                     ->excludes(prompt.file)
                     ->excludes(tokens)
                     ->excludes(session);
  command
      ->add_option("--tokens_received", flags.tokens_received,
                   "Tokens of it that are not told again (default: 0)")
      ->check(NonNegative())
      ->needs(resume);
  AddSampling(*command, flags.sampling);
  auto* logprobs =
      command->add_option("--logprobs", flags.logprobs,
                          "Log-probabilities of the n likeliest tokens (with --json)");
  command->add_option("--n", flags.n, "Candidates to generate");
  command->add_option("--priority", flags.priority, "Higher goes first");
  AddSwitch(*command, "--resume", flags.resume,
            "on: go on where a server had to stop, there or on another; or off");
  logprobs->needs(command->add_flag("--json", flags.json, "One JSON object a message"));
  command->add_flag("--stats", flags.stats,
                    "Seed, usage and finish reason on standard error");
  return command;
}

CLI::App* AddChat(CLI::App& app, ChatFlags& flags) {
  CLI::App* command = app.add_subcommand("chat", "A session in the terminal");
  AddPatientConnection(*command, flags.connection);
  auto* session = command
                      ->add_option("--session", flags.session,
                                   "Session to continue (default: a new one)")
                      ->check(Utf8());
  const TextOptionPair prompt = AddText(*command, "--prompt,--system", flags.prompt,
                                        "Text a new session begins with");
  session->excludes(prompt.text)->excludes(prompt.file);
  AddSampling(*command, flags.sampling);
  command->add_option("--priority", flags.priority, "Higher goes first");
  return command;
}

template <typename Flags>
CLI::App* AddAction(CLI::App& command, const char* name, const char* what, Flags& flags) {
  CLI::App* action = command.add_subcommand(name, what);
  action->callback([&flags, name] { flags.action = name; });
  return action;
}

void AddId(CLI::App& action, SessionsFlags& flags) {
  action.add_option("id", flags.id, "Id of the session")->check(Utf8())->required();
}

CLI::App* AddSessions(CLI::App& app, SessionsFlags& flags) {
  CLI::App* command =
      app.add_subcommand("sessions", "Lists, makes, moves and deletes sessions");
  command->require_subcommand(1);
  const auto add = [&](const char* name, const char* what) {
    return AddAction(*command, name, what, flags);
  };
  CLI::App* list = add("list", "All sessions, here and in the store");
  CLI::App* get = add("get", "Describes a session");
  CLI::App* create = add("create", "Makes a session; prints its id");
  CLI::App* append = add("append", "Adds text to a session, without an answer");
  CLI::App* history = add("history", "Prints what a session has said and been told");
  CLI::App* fork = add("fork", "Makes a copy of a session; prints its id");
  CLI::App* park = add("park", "Writes a session to the store and frees its memory");
  CLI::App* to_file = add("export", "Writes a session to a file");
  CLI::App* from_file = add("import", "Makes a session of such a file; prints its id");
  CLI::App* remove = add("delete", "Deletes sessions");

  for (CLI::App* action :
       {list, get, create, append, history, fork, park, to_file, remove}) {
    AddPatientConnection(*action, flags.connection);
  }
  AddConnection(*from_file, flags.connection);  // its input can be read once
  for (CLI::App* action : {get, append, history, fork, park, to_file}) {
    AddId(*action, flags);
  }
  remove->add_option("ids", flags.ids, "Ids of the sessions")->check(Utf8())->required();
  for (CLI::App* action : {to_file, from_file}) {
    action->add_option("file", flags.file, "The file; -: standard output or input")
        ->required();
  }
  for (CLI::App* action : {create, append}) {
    AddTokens(*action, "--tokens", flags.tokens,
              AddText(*action, "--prompt", flags.prompt,
                      "The text; -: standard input, less a newline at its end"));
    action->add_option("--priority", flags.priority, "Higher goes first");
  }
  history->add_option("--first_token", flags.first_token, "Tokens to leave out before")
      ->check(NonNegative());
  for (CLI::App* action : {list, get, create, append, fork, park, from_file}) {
    action->add_flag("--json", flags.json, "One JSON object a session");
  }
  history->add_flag("--json", flags.json, "One JSON object a page, with its tokens");
  return command;
}

CLI::App* AddAdmin(CLI::App& app, AdminFlags& flags) {
  CLI::App* command = app.add_subcommand("admin", "Looks after a server");
  command->require_subcommand(1);
  const auto add = [&](const char* name, const char* what) {
    CLI::App* action = AddAction(*command, name, what, flags);
    AddConnection(*action, flags.connection);
    return action;
  };
  CLI::App* drain = add("drain", "Ends the server as SIGTERM does");
  add("reload", "Reads the tenants file again");
  CLI::App* requests = add("requests", "All requests that wait or run");
  CLI::App* cancel = add("cancel", "Ends requests");
  CLI::App* log_level = add("log_level", "Sets what the log tells");

  drain->add_flag("--hurry", flags.hurry, "Do not wait for what runs");
  requests->add_option("--tenant", flags.tenant, "Of this tenant only")->check(Utf8());
  requests->add_flag("--json", flags.json, "One JSON object a request");
  cancel->add_option("ids", flags.ids, "Ids of the requests")->required();
  log_level->add_option("level", flags.level, "debug, info, warning, error or off")
      ->required()
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}));
  return command;
}

CLI::App* AddScore(CLI::App& app, ScoreFlags& flags) {
  CLI::App* command =
      app.add_subcommand("score", "Log-probabilities of a text after a context");
  AddPatientConnection(*command, flags.connection);
  AddTokens(*command, "--context_tokens", flags.context_tokens,
            AddText(*command, "--context", flags.context,
                    "What comes before (default: nothing); -: standard input, less a "
                    "newline at its end"));
  AddTokens(*command, "--continuation_tokens", flags.continuation_tokens,
            AddText(*command, "--continuation", flags.continuation,
                    "What is scored; - likewise"));
  command->add_flag("--json", flags.json, "One JSON object");
  return command;
}

CLI::App* AddTokenize(CLI::App& app, TokenizeFlags& flags) {
  CLI::App* command = app.add_subcommand("tokenize", "Token ids of a text");
  AddPatientConnection(*command, flags.connection);
  command
      ->add_option("text", flags.text,
                   "The text; -, and the default: standard input, every byte of it")
      ->check(Utf8());
  return command;
}

CLI::App* AddDetokenize(CLI::App& app, DetokenizeFlags& flags) {
  CLI::App* command = app.add_subcommand("detokenize", "Text of token ids");
  AddPatientConnection(*command, flags.connection);
  command
      ->add_option("tokens", flags.tokens,
                   "The ids; -, and the default: standard input, which has blanks or "
                   "commas between")
      ->delimiter(',');
  return command;
}

CLI::App* AddModel(CLI::App& app, ModelFlags& flags) {
  CLI::App* command = app.add_subcommand("model", "Describes the model and the limits");
  AddPatientConnection(*command, flags.connection);
  return command;
}

CLI::App* AddHealth(CLI::App& app, HealthFlags& flags) {
  CLI::App* command = app.add_subcommand("health", "Whether the server is serving");
  AddServer(*command, flags.connection);
  command->get_option("--timeout")
      ->description("Seconds for each look (default: 1, or what is left of --wait)");
  command->add_option("--wait", flags.wait, "Seconds to wait until it is")
      ->check(NonNegative());
  return command;
}

CLI::App* AddTop(CLI::App& app, TopFlags& flags) {
  constexpr double kMinInterval = 0.1, kMaxInterval = 86400;  // seconds
  CLI::App* command = app.add_subcommand("top", "A live view of the server");
  command->add_option("--metrics", flags.metrics, "HOST:PORT of the server's metrics")
      ->check(CLI::Validator(
          [](std::string& address) {
            return IsHostAndPort(address) ? std::string() : address + " is not HOST:PORT";
          },
          ""))
      ->capture_default_str();
  command->add_option("--interval", flags.interval, "Seconds between two looks")
      ->check(CLI::Validator(
          [](std::string& text) {
            double seconds = 0;
            // CLI::Range takes what is no number for one within it.
            return absl::SimpleAtod(text, &seconds) && seconds >= kMinInterval &&
                           seconds <= kMaxInterval
                       ? std::string()
                       : "is " + text + "; it must be in [0.1, 86400]";
          },
          ""))
      ->capture_default_str();
  command->add_option("--count", flags.count, "Screens to show; 0: until q or ctrl-C")
      ->check(NonNegative())
      ->capture_default_str();
  return command;
}

// What a command that needs no server computes with.
template <typename Options>
void AddBackend(CLI::App& command, Options& options) {
  command.add_option("--backend", options.backend, "cpu, cuda, or auto (default: cpu)")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}));
  command
      .add_option("--device", options.device, "Number of the CUDA device (default: 0)")
      ->check(CLI::Range(0, 1024));
  std::vector<std::string> isas = CpuIsas();
  isas.insert(isas.begin(), "auto");
  command.add_option("--cpu_isa", options.cpu_isa, "Instruction set to compute with")
      ->check(CLI::IsMember(isas));
}

CLI::App* AddVerify(CLI::App& app, VerifyOptions& options) {
  CLI::App* command = app.add_subcommand(
      "verify", "Compares a model's arithmetic with recorded numbers; needs no server");
  command->add_option("model_dir", options.model_dir, "Model directory")->required();
  command->add_option("expected", options.expected_path, "expected.safetensors")
      ->required();
  command
      ->add_option("--compute_dtype", options.compute_dtype,
                   "f32 or bf16 (default: as the weights are stored)")
      ->check(CLI::IsMember(ComputeDtypes()));
  command->add_option("--chunk", options.chunk, "Prompt tokens a step (default: all)")
      ->check(Positive());
  command->add_option("--batch", options.batch, "Sequences in a step")
      ->check(AtMost(kMaxVerifyBatch));
  AddBackend(*command, options);
  command
      ->add_option("--threads", options.threads,
                   "Threads (default: one a CPU it may use)")
      ->check(Positive());
  return command;
}

CLI::App* AddPerplexity(CLI::App& app, PerplexityOptions& options) {
  CLI::App* command = app.add_subcommand(
      "perplexity", "How well a model predicts a text; needs no server");
  command->add_option("model_dir", options.model_dir, "Model directory")->required();
  command->add_option("text", options.text_path, "File of UTF-8 text; -: standard input")
      ->required();
  command
      ->add_option("--compute_dtype", options.compute_dtype,
                   "f32 or bf16 (default: as the weights are stored)")
      ->check(CLI::IsMember(ComputeDtypes()));
  command
      ->add_option("--weight_dtype", options.weight_dtype,
                   "auto (the compute dtype), int8 or fp8 for the large matrices")
      ->check(CLI::IsMember(WeightDtypes()));
  command
      ->add_option("--cache_dtype", options.cache_dtype,
                   "auto (the compute dtype) or int8 for compressed keys")
      ->check(CLI::IsMember(CacheDtypes()));
  AddBackend(*command, options);
  command
      ->add_option("--window", options.window,
                   "Tokens predicted from an empty context each (default: 1024)")
      ->check(AtMost(kMaxPerplexityWindow));
  command
      ->add_option("--max_tokens", options.max_tokens,
                   "Tokens of the text to predict (default: all)")
      ->check(Positive());
  command
      ->add_option("--threads", options.threads,
                   "Threads (default: one a CPU it may use)")
      ->check(Positive());
  return command;
}

struct AllFlags {
  GenerateFlags generate;
  ChatFlags chat;
  SessionsFlags sessions;
  AdminFlags admin;
  ScoreFlags score;
  TokenizeFlags tokenize;
  DetokenizeFlags detokenize;
  ModelFlags model;
  HealthFlags health;
  TopFlags top;
  VerifyOptions verify;
  PerplexityOptions perplexity;
};

template <typename Flags>
int Run(const Flags& flags, int (*run)(const Flags&)) {
  const absl::Status status = CheckConnection(flags.connection);
  if (status.ok()) return run(flags);
  std::fprintf(stderr, "goldfinch: %s\n", std::string(status.message()).c_str());
  return kUsageExit;
}

// Output that is lost, on a disk that is full, is no success.
int CheckOutput(int exit_code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
  std::fputs("goldfinch: standard output could not be written\n", stderr);
  return exit_code == 0 ? 1 : exit_code;
}

// What the library has to say is in the status of a call, too.
void Ignore(gpr_log_func_args*) {}

int Main(int argc, char** argv) {
  if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function(Ignore);
  AllFlags flags;
  CLI::App app("Client of a GoldFinch server.", "goldfinch");
  app.set_version_flag("--version", std::string("goldfinch ") + kBuild);
  app.require_subcommand(1);
  const CLI::App* generate = AddGenerate(app, flags.generate);
  const CLI::App* chat = AddChat(app, flags.chat);
  const CLI::App* sessions = AddSessions(app, flags.sessions);
  const CLI::App* admin = AddAdmin(app, flags.admin);
  const CLI::App* score = AddScore(app, flags.score);
  const CLI::App* tokenize = AddTokenize(app, flags.tokenize);
  const CLI::App* detokenize = AddDetokenize(app, flags.detokenize);
  const CLI::App* model = AddModel(app, flags.model);
  const CLI::App* health = AddHealth(app, flags.health);
  const CLI::App* top = AddTop(app, flags.top);
  const CLI::App* verify = AddVerify(app, flags.verify);
  AddPerplexity(app, flags.perplexity);
  try {
    app.parse(ReversedArguments(argc, argv));
  } catch (const CLI::Success& wanted) {  // help or version
    return app.exit(wanted);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "goldfinch: %s\n", UsageMistake(app, error).c_str());
    return kUsageExit;
  }
  if (generate->parsed()) return Run(flags.generate, RunGenerate);
  if (chat->parsed()) return Run(flags.chat, RunChat);
  if (sessions->parsed()) return Run(flags.sessions, RunSessions);
  if (admin->parsed()) return Run(flags.admin, RunAdmin);
  if (score->parsed()) return Run(flags.score, RunScore);
  if (tokenize->parsed()) return Run(flags.tokenize, RunTokenize);
  if (detokenize->parsed()) return Run(flags.detokenize, RunDetokenize);
  if (model->parsed()) return Run(flags.model, RunModel);
  if (health->parsed()) return Run(flags.health, RunHealth);
  if (top->parsed()) return RunTop(flags.top);
  if (verify->parsed()) return RunVerify(flags.verify);
  return RunPerplexity(flags.perplexity);
}

}  // namespace
}  // namespace goldfinch

int main(int argc, char** argv) {
  return goldfinch::CheckOutput(goldfinch::Main(argc, argv));
}
