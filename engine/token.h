// The one word the whole tree shares: a token of the model's vocabulary.
#pragma once

#include <cstdint>

namespace goldfinch {

// Index into the vocabulary, in [0, vocab_size). 0 is end of text.
using TokenId = std::int32_t;

inline constexpr TokenId kEndOfText = 0;

}  // namespace goldfinch
