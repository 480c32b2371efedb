#include "server/text/python_literal.h"

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/text/detokenizer.h"

namespace goldfinch {
namespace {

constexpr uint32_t kMaxCodePoint = 0x10FFFF;

bool IsSurrogate(uint32_t code_point) {
  return code_point >= 0xD800 && code_point <= 0xDFFF;
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  const auto continuation = [code_point](int shift) {
    return static_cast<char>(0x80 | ((code_point >> shift) & 0x3F));
  };
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0 | (code_point >> 6));
    out += continuation(0);
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0 | (code_point >> 12));
    out += continuation(6);
    out += continuation(0);
  } else {
    out += static_cast<char>(0xF0 | (code_point >> 18));
    out += continuation(12);
    out += continuation(6);
    out += continuation(0);
  }
}

// The value of `c` as a digit of `base` (8 or 16), or -1.
int DigitValue(char c, int base) {
  int value = -1;
  if (c >= '0' && c <= '9') value = c - '0';
  if (c >= 'a' && c <= 'f') value = c - 'a' + 10;
  if (c >= 'A' && c <= 'F') value = c - 'A' + 10;
  return value < base ? value : -1;
}

// The character a one-letter escape stands for, or 0.
char SimpleEscape(char letter) {
  switch (letter) {
    case '\\':
    case '\'':
    case '"':
      return letter;
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'v':
      return '\v';
    default:
      return 0;
  }
}

class LiteralParser {
 public:
  explicit LiteralParser(std::string_view literal) : rest_(literal) {}

  absl::StatusOr<std::string> Parse() {
    is_bytes_ = Take('b');
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) {
      return absl::InvalidArgumentError("the token is not a str or bytes literal");
    }
    const char quote = rest_[0];
    rest_.remove_prefix(1);
    while (!Take(quote)) {
      if (rest_.empty()) {
        return absl::InvalidArgumentError("the literal has no closing quote");
      }
      const absl::Status status = Take('\\') ? ParseEscape() : ParseRaw();
      if (!status.ok()) return status;
    }
    if (!rest_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the literal is followed by ", rest_.size(), " more bytes; the limit is 0"));
    }
    // Escapes give whole characters, so this judges the raw bytes between them.
    if (!is_bytes_ && !IsValidUtf8(out_)) {
      return absl::InvalidArgumentError("the str literal is not valid UTF-8");
    }
    return std::move(out_);
  }

 private:
  bool Take(char c) {
    if (rest_.empty() || rest_[0] != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  absl::Status ParseRaw() {
    const auto byte = static_cast<uint8_t>(rest_[0]);
    if (byte == 0 || byte == '\r') {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the literal holds a raw byte 0x%02x, which needs an escape", byte));
    }
    if (is_bytes_ && byte > 0x7F) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the bytes literal holds a raw byte 0x%02x; the limit is 0x7f", byte));
    }
    out_ += rest_[0];
    rest_.remove_prefix(1);
    return absl::OkStatus();
  }

  // rest_ is what follows the backslash.
  absl::Status ParseEscape() {
    if (rest_.empty()) {
      return absl::InvalidArgumentError("the literal has no closing quote");
    }
    const char letter = rest_[0];
    if (DigitValue(letter, 8) >= 0) return ParseOctal();
    rest_.remove_prefix(1);
    if (const char c = SimpleEscape(letter); c != 0) {
      out_ += c;
      return absl::OkStatus();
    }
    if (letter == 'x') return ParseHex(letter, 2);
    if (letter == 'u' && !is_bytes_) return ParseHex(letter, 4);
    if (letter == 'U' && !is_bytes_) return ParseHex(letter, 8);
    return absl::InvalidArgumentError(
        absl::StrFormat("the %s literal has an unknown escape: backslash and byte 0x%02x",
                        is_bytes_ ? "bytes" : "str", static_cast<uint8_t>(letter)));
  }

  // \N, \NN or \NNN, as many octal digits as there are.
  absl::Status ParseOctal() {
    size_t digits = 1;
    while (digits < 3 && digits < rest_.size() && DigitValue(rest_[digits], 8) >= 0) {
      ++digits;
    }
    return AppendValue(TakeNumber(digits, 8));
  }

  absl::Status ParseHex(char letter, size_t digits) {
    size_t found = 0;
    while (found < digits && found < rest_.size() && DigitValue(rest_[found], 16) >= 0) {
      ++found;
    }
    if (found < digits) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the escape \\%c has %d hex digits; it needs %d", letter, found, digits));
    }
    return AppendValue(TakeNumber(digits, 16));
  }

  // The first `digits` bytes of rest_ are known to be digits of `base`; the longest
  // escape has eight hex digits, which fit.
  uint32_t TakeNumber(size_t digits, int base) {
    uint32_t value = 0;
    for (const char c : rest_.substr(0, digits)) {
      value = value * static_cast<uint32_t>(base) +
              static_cast<uint32_t>(DigitValue(c, base));
    }
    rest_.remove_prefix(digits);
    return value;
  }

  absl::Status AppendValue(uint32_t value) {
    if (is_bytes_) {
      if (value > 0xFF) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "the bytes literal has an octal escape of %o; the limit is 377", value));
      }
      out_ += static_cast<char>(value);
      return absl::OkStatus();
    }
    if (IsSurrogate(value)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the code point U+%04X is a surrogate", value));
    }
    if (value > kMaxCodePoint) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the code point U+%04X is above the limit U+10FFFF", value));
    }
    AppendUtf8(value, out_);
    return absl::OkStatus();
  }

  std::string_view rest_;
  std::string out_;
  bool is_bytes_ = false;
};

}  // namespace

absl::StatusOr<std::string> ParsePythonLiteral(std::string_view literal) {
  return LiteralParser(literal).Parse();
}

}  // namespace goldfinch
