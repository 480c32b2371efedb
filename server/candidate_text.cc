#include "server/candidate_text.h"

#include <span>
#include <utility>

namespace goldfinch {
namespace {

const std::shared_ptr<const StopStrings>& NoStops() {
  static const auto* const none = new std::shared_ptr<const StopStrings>(
      StopStrings::Create(std::span<const std::string>()).value());
  return *none;
}

class TextStopCondition final : public StopCondition {
 public:
  TextStopCondition(const Vocabulary& vocabulary, const TextOptions& options)
      : text_(vocabulary, options) {}

  int Push(TokenId token) override {
    shown_.clear();
    text_.Push(token, shown_);
    return text_.matched_stop().value_or(-1);
  }

 private:
  CandidateText text_;
  std::string shown_;  // reused; its content is not wanted here
};

}  // namespace

CandidateText::CandidateText(const Vocabulary& vocabulary, const TextOptions& options)
    : text_(vocabulary, options.min_tokens > 0 ? NoStops() : options.stops,
            options.stop_text) {
  if (options.min_tokens > 0) {
    tokens_without_stops_ = options.min_tokens;
    with_stops_.emplace(vocabulary, options.stops, options.stop_text);
  }
}

void CandidateText::Push(TokenId token, std::string& text) {
  if (with_stops_.has_value() && tokens_without_stops_-- == 0) {
    // Without stops only the beginning of a character is held; it moves over.
    with_stops_->PushBytes(text_.Held(), text);
    text_ = *std::move(with_stops_);
    with_stops_.reset();
  }
  text_.Push(token, text);
}

void CandidateText::Finish(std::string& text) { text_.Finish(text); }

std::unique_ptr<StopCondition> MakeStopCondition(const Vocabulary& vocabulary,
                                                 const TextOptions& options) {
  return std::make_unique<TextStopCondition>(vocabulary, options);
}

}  // namespace goldfinch
