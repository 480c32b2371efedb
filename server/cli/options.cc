#include "server/cli/options.h"

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/cli/call.h"
#include "server/cli/tls_options.h"

namespace goldfinch {

// The library's own write bounds out, of 309 digits, and would have "-1" of what is
// unsigned become the largest one.
CLI::Validator Positive() {
  return {[](std::string& text) {
            return std::strtod(text.c_str(), nullptr) > 0
                       ? std::string()
                       : absl::StrCat("is ", text, "; it must be above 0");
          },
          "POSITIVE"};
}

CLI::Validator AtMost(std::int64_t limit) {
  return {[limit](std::string& text) {
            const double number = std::strtod(text.c_str(), nullptr);
            return number >= 1 && number <= static_cast<double>(limit)
                       ? std::string()
                       : absl::StrCat("is ", text, "; it must be in [1, ", limit, "]");
          },
          "POSITIVE"};
}

CLI::Validator NonNegative() {
  return {[](std::string& text) {
            return std::strtod(text.c_str(), nullptr) >= 0
                       ? std::string()
                       : absl::StrCat("is ", text, "; it must be 0 or more");
          },
          "NONNEGATIVE"};
}

CLI::Validator Utf8() {
  return {[](std::string& text) { return TextMistake(text); }, ""};
}

TextOptionPair AddText(CLI::App& app, const std::string& flag, TextFlags& flags,
                       const std::string& help) {
  std::vector<std::string> files = absl::StrSplit(flag, ',');
  for (std::string& name : files) name += "_file";
  const TextOptionPair options = {
      app.add_option(flag, flags.text, help)->check(Utf8()),
      app.add_option(absl::StrJoin(files, ","), flags.file,
                     "File that has it, less a newline at its end")};
  options.file->excludes(options.text);
  return options;
}

CLI::Option* AddTokens(CLI::App& app, const std::string& flag, TokenFlags& flags,
                       const TextOptionPair& text) {
  return app.add_option(flag, flags, "The same as token ids")
      ->delimiter(',')
      ->excludes(text.text)
      ->excludes(text.file);
}

void AddServer(CLI::App& app, ConnectionFlags& flags) {
  app.add_option("--server", flags.server,
                 "HOST:PORT of the server, or of several, to be tried in order: A,B")
      ->capture_default_str();
  app.add_option("--timeout", flags.timeout,
                 "Seconds for the whole call (default: no limit)")
      ->check(Positive());
  AddTls(app, flags);
}

void AddConnection(CLI::App& app, ConnectionFlags& flags) {
  AddServer(app, flags);
  app.add_option("--key", flags.key,
                 "Key to call with; in the environment others do not see it")
      ->envname(kKeyVariable);
  app.add_flag("--insecure_send_key", flags.insecure_send_key,
               "Send the key without TLS, to other machines too");
}

void AddPatientConnection(CLI::App& app, ConnectionFlags& flags) {
  AddConnection(app, flags);
  app.add_option(
         "--retry_seconds", flags.retry_seconds,
         "Seconds to ask again when no server has room or is there (default: each "
         "is asked once)")
      ->check(NonNegative());
}

void AddSampling(CLI::App& app, SamplingFlags& flags) {
  app.add_option("--max_tokens", flags.max_tokens, "Most tokens to generate");
  app.add_option("--min_tokens", flags.min_tokens,
                 "Tokens before anything may end the text");
  app.add_option("--temperature", flags.temperature, "0 is greedy");
  app.add_option("--top_p", flags.top_p, "Keep the likeliest tokens up to this sum");
  app.add_option("--top_k", flags.top_k, "Keep the k likeliest tokens; 0 or -1: all");
  app.add_option("--min_p", flags.min_p,
                 "Keep tokens this probable, relative to the likeliest");
  app.add_option("--repetition_penalty", flags.repetition_penalty,
                 "Divides logits of tokens seen before");
  app.add_option("--frequency_penalty", flags.frequency_penalty,
                 "Subtracted once for each time generated");
  app.add_option("--presence_penalty", flags.presence_penalty,
                 "Subtracted if generated at all");
  app.add_option("--seed", flags.seed, "Seed of the random draws")->check(NonNegative());
  app.add_option("--stop", flags.stop, "String that ends the text; repeatable")
      ->check(Utf8())
      ->allow_extra_args(false);
  app.add_option("--stop_token_ids", flags.stop_token_ids, "Tokens that end the text")
      ->delimiter(',');
  app.add_flag("--include_stop_str_in_output", flags.include_stop_str_in_output,
               "Show what ended the text");
  app.add_flag("--ignore_eos", flags.ignore_eos, "Go on after end of text");
  app.add_option("--logit_bias", flags.logit_bias, "ID:VALUE; repeatable")
      ->allow_extra_args(false);
}

}  // namespace goldfinch
