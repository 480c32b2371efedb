// Turns the bytes of tokens, as they arrive, into text that is always valid UTF-8.
//
// A character is emitted when its last byte arrives; until then its bytes are pending.
// What can no longer become a character is replaced by one U+FFFD per maximal subpart
// (the practice of Unicode and WHATWG): overlong forms, surrogates, code points above
// U+10FFFF, stray continuation bytes and truncated characters.
//
// Invariant: the output depends on the bytes alone, not on how they were cut; pending()
// is at most three bytes, the beginning of a valid character.
//
// Threads: thread-compatible; the state is a few bytes and is copied freely.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace goldfinch {

class Detokenizer {
 public:
  // Appends to `text` every character that `bytes` completes or breaks.
  void Push(std::string_view bytes, std::string& text);

  // Ends the stream: a pending beginning becomes one U+FFFD.
  void Flush(std::string& text);

  // The bytes held back. Pushing them into a fresh Detokenizer restores this state.
  std::string_view pending() const { return {pending_.data(), size_}; }

 private:
  void PushByte(char byte, std::string& text);

  std::array<char, 3> pending_{};
  uint8_t size_ = 0;
};

// The same conversion of a whole string.
std::string ToValidUtf8(std::string_view bytes);

bool IsValidUtf8(std::string_view bytes);

// The size of the longest beginning that is valid.
size_t ValidUtf8Size(std::string_view bytes);

}  // namespace goldfinch
