#include "server/text/vocabulary.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <system_error>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/check.h"
#include "server/text/python_literal.h"

namespace goldfinch {
namespace {

constexpr size_t kMaxQuotedBytes = 32;

// A field of a broken line, short and printable.
std::string Quoted(std::string_view field) {
  std::string quoted = "\"";
  for (const char c : field.substr(0, kMaxQuotedBytes)) {
    if (c >= ' ' && c <= '~') {
      quoted += c;
    } else {
      quoted += absl::StrFormat("\\x%02x", static_cast<uint8_t>(c));
    }
  }
  return quoted.append(field.size() > kMaxQuotedBytes ? "...\"" : "\"");
}

bool ParseInt64(std::string_view field, int64_t& value) {
  const char* end = field.data() + field.size();
  const auto [stop, error] = std::from_chars(field.data(), end, value);
  return error == std::errc() && stop == end;
}

absl::StatusOr<std::string> ReadWholeFile(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (error) {
    return absl::NotFoundError(absl::StrCat("cannot be read: ", error.message()));
  }
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError("cannot be read: it is not a regular file");
  }
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size > static_cast<std::uintmax_t>(Vocabulary::kMaxFileBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "file has ", size, " bytes; the limit is ", Vocabulary::kMaxFileBytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string content(error ? 0 : static_cast<size_t>(size), '\0');
  if (error || !file || !file.read(content.data(), static_cast<std::streamsize>(size))) {
    return absl::UnavailableError("cannot be read: opening or reading it failed");
  }
  return content;
}

struct Line {
  int64_t id = 0;
  std::string bytes;
};

// Everything about a line that can be judged without the other lines.
absl::StatusOr<Line> ParseLine(std::string_view text, int64_t vocab_size) {
  const size_t first = text.find(' ');
  const size_t last = text.rfind(' ');
  if (first == last) {  // one space or none
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " is not of the form `id literal length`"));
  }
  Line line;
  if (!ParseInt64(text.substr(0, first), line.id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("id ", Quoted(text.substr(0, first)), " is not a number"));
  }
  if (line.id == kEndOfText) {
    return absl::InvalidArgumentError(
        "id 0 is listed; it is end of text and the lowest id of a line is 1");
  }
  if (line.id < 0 || line.id >= vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("id ", line.id, " is out of range; the limit is ", vocab_size - 1));
  }
  absl::StatusOr<std::string> bytes =
      ParsePythonLiteral(text.substr(first + 1, last - first - 1));
  if (!bytes.ok()) return bytes.status();
  line.bytes = *std::move(bytes);
  int64_t length = 0;
  if (!ParseInt64(text.substr(last + 1), length)) {
    return absl::InvalidArgumentError(
        absl::StrCat("length ", Quoted(text.substr(last + 1)), " is not a number"));
  }
  if (length != static_cast<int64_t>(line.bytes.size())) {
    return absl::InvalidArgumentError(absl::StrCat("the token has ", line.bytes.size(),
                                                   " bytes; the line says ", length));
  }
  if (line.bytes.empty()) {
    return absl::InvalidArgumentError("the token has 0 bytes; it needs at least 1");
  }
  if (line.bytes.size() > Vocabulary::kMaxTokenBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the token has ", line.bytes.size(),
                                                   " bytes; the limit is ",
                                                   Vocabulary::kMaxTokenBytes));
  }
  return line;
}

}  // namespace

// Fills a Vocabulary line by line; keeps what only the checks between lines need.
class Vocabulary::Loader {
 public:
  Loader(Vocabulary& vocabulary, size_t file_bytes) : vocabulary_(vocabulary) {
    // No literal is shorter than its bytes, so the arena never moves and views into it
    // stay valid.
    vocabulary_.arena_.reserve(file_bytes);
  }

  absl::Status AddLine(std::string_view text, int64_t line_number) {
    const absl::StatusOr<Line> line = ParseLine(text, vocabulary_.size());
    if (!line.ok()) return line.status();
    std::string_view& token = vocabulary_.tokens_[static_cast<size_t>(line->id)];
    if (!token.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("id ", line->id, " is already given by line ", line_of_[token]));
    }
    std::string& arena = vocabulary_.arena_;
    GOLDFINCH_CHECK(arena.size() + line->bytes.size() <= arena.capacity());
    const size_t begin = arena.size();
    arena += line->bytes;
    const std::string_view bytes = std::string_view(arena).substr(begin);
    const auto [previous, is_new] = line_of_.emplace(bytes, line_number);
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat("the token of id ", line->id,
                                                     " has the same bytes as line ",
                                                     previous->second));
    }
    token = bytes;
    return absl::OkStatus();
  }

  absl::Status CheckSingleBytes() const {
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      if (!line_of_.contains(std::string_view(&c, 1))) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "byte 0x%02x is not a token; each of the 256 single bytes must be", byte));
      }
    }
    return absl::OkStatus();
  }

 private:
  Vocabulary& vocabulary_;
  std::unordered_map<std::string_view, int64_t> line_of_;  // by the token's bytes
};

absl::StatusOr<std::unique_ptr<Vocabulary>> Vocabulary::Load(const std::string& path,
                                                             int64_t vocab_size) {
  GOLDFINCH_CHECK(vocab_size >= 1 && vocab_size <= std::numeric_limits<TokenId>::max());
  const std::string name = std::filesystem::path(path).filename().string();
  const auto refuse = [&name](const absl::Status& why, const std::string& where = "") {
    return absl::Status(why.code(),
                        absl::StrCat(name, where, ": ", std::string(why.message())));
  };
  const absl::StatusOr<std::string> content = ReadWholeFile(path);
  if (!content.ok()) return refuse(content.status());

  std::unique_ptr<Vocabulary> vocabulary(new Vocabulary(vocab_size));
  Loader loader(*vocabulary, content->size());
  std::string_view rest = *content;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (const absl::Status status = loader.AddLine(line, number); !status.ok()) {
      return refuse(status, absl::StrCat(" line ", number));
    }
  }
  if (const absl::Status status = loader.CheckSingleBytes(); !status.ok()) {
    return refuse(status);
  }
  return vocabulary;
}

std::string_view Vocabulary::bytes(TokenId id) const {
  GOLDFINCH_CHECK(Contains(id));
  return tokens_[static_cast<size_t>(id)];
}

}  // namespace goldfinch
