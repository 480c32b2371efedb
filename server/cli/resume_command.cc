#include "server/cli/resume_command.h"

#include <cerrno>  // program_invocation_name
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace goldfinch {
namespace {

constexpr char kPlain[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,=+@%";

// As one word of a shell.
std::string Quoted(const std::string& word) {
  if (word.find_first_not_of(kPlain) == std::string::npos) return word;
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

}  // namespace

std::string ResumeCommand(const GenerateFlags& flags, const std::string& session_id,
                          std::int64_t tokens_received) {
  std::vector<std::string> words = {program_invocation_name, "generate",
                                    absl::StrCat("--resume_session=", session_id),
                                    absl::StrCat("--tokens_received=", tokens_received)};
  const auto add = [&words](const char* flag, const std::string& value) {
    if (!value.empty()) words.push_back(absl::StrCat(flag, "=", value));
  };
  const auto add_if = [&words](const char* flag, bool given) {
    if (given) words.emplace_back(flag);
  };
  const ConnectionFlags& connection = flags.connection;
  add("--server", connection.server);
  add_if("--insecure_send_key", connection.insecure_send_key);
  add_if("--tls", connection.tls);
  add("--tls_ca", connection.tls_ca);
  add("--tls_cert", connection.tls_cert);
  add("--tls_key", connection.tls_key);
  add("--tls_server_name", connection.tls_server_name);
  add_if("--json", flags.json);
  add_if("--stats", flags.stats);
  for (std::string& word : words) word = Quoted(word);
  return absl::StrJoin(words, " ");
}

}  // namespace goldfinch
