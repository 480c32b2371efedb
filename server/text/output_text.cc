#include "server/text/output_text.h"

#include <utility>

namespace goldfinch {

OutputText::OutputText(const Vocabulary& vocabulary,
                       std::shared_ptr<const StopStrings> stops, StopText stop_text)
    : vocabulary_(&vocabulary), matcher_(std::move(stops), stop_text) {}

void OutputText::PushBytes(std::string_view bytes, std::string& text) {
  std::string characters;
  detokenizer_.Push(bytes, characters);
  matcher_.Push(characters, text);
}

void OutputText::Push(TokenId id, std::string& text) {
  PushBytes(vocabulary_->bytes(id), text);
}

void OutputText::Finish(std::string& text) {
  std::string characters;
  detokenizer_.Flush(characters);
  matcher_.Push(characters, text);
  matcher_.Flush(text);
}

std::string OutputText::Held() const {
  return std::string(matcher_.held()).append(detokenizer_.pending());
}

}  // namespace goldfinch
