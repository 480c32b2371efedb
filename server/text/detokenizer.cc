#include "server/text/detokenizer.h"

#include <cstddef>

namespace goldfinch {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

bool IsAscii(char c) { return static_cast<uint8_t>(c) < 0x80; }

// Bytes of the character that `lead` begins; 0 when no character begins with it.
size_t CharacterLength(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

// Whether `byte` may follow `size` bytes of a character that begins with `lead`. Only the
// second byte has a narrower range: there overlong forms, surrogates and code points
// above U+10FFFF show.
bool MayContinue(uint8_t lead, size_t size, uint8_t byte) {
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (size == 1) {
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  }
  return byte >= low && byte <= high;
}

}  // namespace

void Detokenizer::PushByte(char byte, std::string& text) {
  const auto lead = static_cast<uint8_t>(pending_[0]);
  const auto value = static_cast<uint8_t>(byte);
  if (size_ > 0 && MayContinue(lead, size_, value)) {
    if (size_ + 1u < CharacterLength(lead)) {
      pending_[size_++] = byte;
      return;
    }
    text.append(pending());
    text += byte;
    size_ = 0;
    return;
  }
  Flush(text);  // what was pending is broken; `byte` is judged afresh
  const size_t length = CharacterLength(value);
  if (length == 0) {
    text.append(kReplacement);
  } else if (length == 1) {
    text += byte;
  } else {
    pending_[0] = byte;
    size_ = 1;
  }
}

void Detokenizer::Push(std::string_view bytes, std::string& text) {
  size_t i = 0;
  while (i < bytes.size()) {
    size_t run = i;
    if (size_ == 0) {
      while (run < bytes.size() && IsAscii(bytes[run])) ++run;
    }
    if (run > i) {
      text.append(bytes.substr(i, run - i));
      i = run;
    } else {
      PushByte(bytes[i++], text);
    }
  }
}

void Detokenizer::Flush(std::string& text) {
  if (size_ > 0) text.append(kReplacement);
  size_ = 0;
}

std::string ToValidUtf8(std::string_view bytes) {
  Detokenizer detokenizer;
  std::string text;
  text.reserve(bytes.size());
  detokenizer.Push(bytes, text);
  detokenizer.Flush(text);
  return text;
}

bool IsValidUtf8(std::string_view bytes) { return ValidUtf8Size(bytes) == bytes.size(); }

size_t ValidUtf8Size(std::string_view bytes) {
  size_t size = 0;
  while (size < bytes.size()) {
    const auto lead = static_cast<uint8_t>(bytes[size]);
    const size_t length = CharacterLength(lead);
    if (length == 0 || length > bytes.size() - size) return size;
    for (size_t i = 1; i < length; ++i) {
      if (!MayContinue(lead, i, static_cast<uint8_t>(bytes[size + i]))) return size;
    }
    size += length;
  }
  return size;
}

}  // namespace goldfinch
