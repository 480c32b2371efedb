// The text of one candidate as its request shapes it: OutputText with stop strings that
// count only after min_tokens.
//
// The step thread runs one (inside a StopCondition) to learn where the candidate ends;
// the call's reader runs another to learn what to show. Both see the same tokens, so
// both find the same end.
//
// Invariant: a stop string can only match text of tokens after the first min_tokens;
// earlier text is never held back for it.
//
// Threads: thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine/token.h"
#include "scheduler/request.h"
#include "server/text/output_text.h"
#include "server/text/stop_matcher.h"
#include "server/text/vocabulary.h"

namespace goldfinch {

// How a request wants its text; the same for all its candidates.
struct TextOptions {
  std::shared_ptr<const StopStrings> stops;  // empty list: none
  StopText stop_text = StopText::kExclude;
  std::int64_t min_tokens = 0;
};

class CandidateText {
 public:
  // `vocabulary` outlives this.
  CandidateText(const Vocabulary& vocabulary, const TextOptions& options);

  // Appends to `text` what may be shown now that `token` was generated.
  void Push(TokenId token, std::string& text);

  // The candidate has ended: appends what was held back. What it appends can complete a
  // stop string (see OutputText::Finish), so matched_stop() is asked afterwards.
  void Finish(std::string& text);

  std::optional<int> matched_stop() const { return text_.matched_stop(); }

 private:
  OutputText text_;  // without stops until min_tokens are there
  std::optional<OutputText> with_stops_;
  std::int64_t tokens_without_stops_ = 0;  // still to come
};

// The stop strings of one candidate as the scheduler asks for them.
std::unique_ptr<StopCondition> MakeStopCondition(const Vocabulary& vocabulary,
                                                 const TextOptions& options);

}  // namespace goldfinch
