// The tokens of a model: id to bytes, read from a file in the RWKV World format.
//
// One line per token, `id literal length`: the id in decimal, the bytes as a Python str
// or bytes literal, and their number. A file that is wrong anywhere is refused as a
// whole.
//
// Invariant: ids are in [0, size()); id 0 is end of text and has no bytes; an id without
// a line has none either; no two ids share bytes; each of the 256 single bytes is a
// token, so that every string can be encoded.
//
// Threads: immutable after Load, so any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/token.h"

namespace goldfinch {

class Vocabulary {
 public:
  static constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
  // Bounds the work per token of Tokenizer::Encode; the World vocabulary's longest is
  // 128.
  static constexpr size_t kMaxTokenBytes = 1024;

  // `vocab_size` is the model's: the number of logits, in [1, 2^31). On a malformed file
  // the message is one line: file name, line number, what, the actual value, the limit.
  static absl::StatusOr<std::unique_ptr<Vocabulary>> Load(const std::string& path,
                                                          int64_t vocab_size);

  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  // The number of ids, listed in the file or not.
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  bool Contains(TokenId id) const { return id >= 0 && id < size(); }

  // Empty for end of text and for ids without a line. `id` must be in the vocabulary.
  std::string_view bytes(TokenId id) const;

 private:
  class Loader;

  explicit Vocabulary(int64_t vocab_size) : tokens_(static_cast<size_t>(vocab_size)) {}

  std::string arena_;                     // the bytes of all tokens, one after another
  std::vector<std::string_view> tokens_;  // by id, into arena_
};

}  // namespace goldfinch
