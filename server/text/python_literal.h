// Reads the Python literals in which a vocabulary file writes its tokens: 'a', "a",
// b'a', b"a", without ever evaluating anything.
//
// A str literal becomes UTF-8 (\xNN is the code point U+00NN there); a bytes literal
// becomes its bytes. What Python only warns about (unknown escapes, octal above \377 in
// bytes) is refused, as is every other prefix, concatenation and triple quotes.
//
// Threads: a pure function.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace goldfinch {

// The bytes of the token, or an INVALID_ARGUMENT whose message, one printable line, says
// what is wrong with the literal.
absl::StatusOr<std::string> ParsePythonLiteral(std::string_view literal);

}  // namespace goldfinch
