#include "server/cli/input.h"

#include <cerrno>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "server/cli/call.h"

namespace goldfinch {
namespace {

constexpr std::size_t kPartBytes = std::size_t{1} << 16;

std::string NameOf(const std::string& file) {
  return file == kStandardInput ? "standard input" : file;
}

int Report(const std::string& problem, int exit_code) {
  std::fprintf(stderr, "goldfinch: %s\n", problem.c_str());
  return exit_code;
}

struct CloseFile {
  void operator()(std::FILE* file) const {
    if (file != stdin) std::fclose(file);
  }
};

}  // namespace

bool IsGiven(const TextFlags& flags) {
  return flags.text.has_value() || flags.file.has_value();
}

bool IsStandardInput(const TextFlags& flags) {
  return flags.text == kStandardInput || flags.file == kStandardInput;
}

bool IsStandardInput(const TokenFlags& flags) {
  return flags.size() == 1 && flags.front() == kStandardInput;
}

absl::StatusOr<std::string> ReadInput(const std::string& file) {
  const std::unique_ptr<std::FILE, CloseFile> input(
      file == kStandardInput ? stdin : std::fopen(file.c_str(), "rb"));
  std::string bytes;
  bool read = input != nullptr;
  for (std::string part(kPartBytes, '\0'); read && std::feof(input.get()) == 0;) {
    bytes.append(part, 0, std::fread(part.data(), 1, part.size(), input.get()));
    read = std::ferror(input.get()) == 0;
  }
  if (read) return bytes;
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", NameOf(file)));
}

int ReadText(const std::string& file, std::string& text) {
  absl::StatusOr<std::string> bytes = ReadInput(file);
  if (!bytes.ok()) return Report(std::string(bytes.status().message()), 1);
  const std::string mistake = TextMistake(*bytes);
  if (!mistake.empty()) {
    return Report(absl::StrCat(NameOf(file), ": ", mistake), kUsageExit);
  }
  text = *std::move(bytes);
  return 0;
}

int ReadText(const TextFlags& flags, std::optional<std::string>& text) {
  text = flags.text;
  if (!flags.file.has_value() && flags.text != kStandardInput) return 0;
  const int exit_code = ReadText(flags.file.value_or(kStandardInput), text.emplace());
  if (text->ends_with('\n')) text->pop_back();
  return exit_code;
}

int ReadTokens(const TokenFlags& flags,
               google::protobuf::RepeatedField<std::int32_t>& tokens) {
  std::string read;
  std::vector<absl::string_view> ids(flags.begin(), flags.end());
  if (IsStandardInput(flags)) {
    if (const int exit_code = ReadText(kStandardInput, read); exit_code != 0) {
      return exit_code;
    }
    ids = absl::StrSplit(read, absl::ByAnyChar(" \t\r\n,"), absl::SkipEmpty());
  }
  for (const absl::string_view id : ids) {
    std::int32_t token = 0;
    if (!absl::SimpleAtoi(id, &token)) {
      return Report(absl::StrCat(id, " is no token id"), kUsageExit);
    }
    tokens.Add(token);
  }
  return 0;
}

}  // namespace goldfinch
