// The text of one generated sequence: tokens in, showable text out.
//
// Chains Vocabulary (token to bytes), Detokenizer (bytes to whole characters) and
// StopMatcher (text to text before the stop). The step thread runs one to learn when to
// stop, the server another to learn what to send; both see the same.
//
// Invariant: what is released, and the match, depend on the sequence of tokens alone.
// Released text is valid UTF-8 after every call.
//
// Threads: thread-compatible; copies share only what is immutable.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/token.h"
#include "server/text/detokenizer.h"
#include "server/text/stop_matcher.h"
#include "server/text/vocabulary.h"

namespace goldfinch {

class OutputText {
 public:
  // `vocabulary` must outlive this and its copies.
  OutputText(const Vocabulary& vocabulary, std::shared_ptr<const StopStrings> stops,
             StopText stop_text);

  // Appends to `text` what may be shown now. `id` must be in the vocabulary. After a
  // match nothing more is released.
  void Push(TokenId id, std::string& text);

  // Ends the sequence: a broken last character becomes U+FFFD and held text is released.
  // That U+FFFD can itself complete a match, so ask matched_stop() again afterwards.
  void Finish(std::string& text);

  // The index of the stop string that matched.
  std::optional<int> matched_stop() const { return matcher_.matched(); }

  // Bytes taken in and not yet released. Pushing them with PushBytes into a fresh object
  // of the same stops restores this state and releases nothing; with other stops it
  // releases what they do not hold back.
  std::string Held() const;
  void PushBytes(std::string_view bytes, std::string& text);

 private:
  const Vocabulary* vocabulary_;  // a pointer so that copies can be assigned
  Detokenizer detokenizer_;
  StopMatcher matcher_;
};

}  // namespace goldfinch
