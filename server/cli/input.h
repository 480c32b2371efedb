// What a command line says in words of its own or leaves to a file: texts and tokens can
// be longer than an argument, which has at most 128 KiB.
//
// Functions that return a number return the exit code, and tell on
// standard error what is wrong.
//
// Threads: one.
#pragma once

#include <google/protobuf/repeated_field.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace goldfinch {

// In the place of a text, a file or tokens.
inline constexpr char kStandardInput[] = "-";

// At most one of them is given.
struct TextFlags {
  std::optional<std::string> text = {};  // or "-"
  std::optional<std::string> file = {};  // its path, or "-"
};

// Ids, or "-" alone.
using TokenFlags = std::vector<std::string>;

bool IsGiven(const TextFlags& flags);
bool IsStandardInput(const TextFlags& flags);
bool IsStandardInput(const TokenFlags& flags);

// Every byte of a file.
absl::StatusOr<std::string> ReadInput(const std::string& file);
// The same, of one that has text.
int ReadText(const std::string& file, std::string& text);

// None where none is given. Of what is read, a newline at its end is left out: that of
// `echo` and of editors is hardly meant, and what is to end in one ends in two.
int ReadText(const TextFlags& flags, std::optional<std::string>& text);

// What is read has blanks or commas between, as `goldfinch tokenize` prints it.
int ReadTokens(const TokenFlags& flags,
               google::protobuf::RepeatedField<std::int32_t>& tokens);

}  // namespace goldfinch
