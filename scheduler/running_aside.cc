// RunningRequest put aside and brought back.
//
// A prompt that is being fed is one sequence, whatever it will branch into; so is a lone
// candidate. Several candidates that decode are a prefix each: they share pages on the
// device, and none in host memory.
#include <iterator>
#include <span>
#include <utility>

#include "engine/check.h"
#include "scheduler/grant.h"
#include "scheduler/running.h"

namespace goldfinch {

bool RunningRequest::CanBePutAside() const {
  // A resumed generation feeds what it has generated: it is about to decode.
  if (Prefilling() && accepted_->request.num_generated > 0) return false;
  const EngineInfo& info = engine_.info();
  if (info.num_pages == 0) return true;
  const RequestNeeds& needs = accepted_->needs;
  const std::int64_t pages =
      IsOne() ? needs.pages + 1
              : unfinished_ * (info.PagesFor(needs.sequence_tokens) + 1);
  return pages <= info.num_pages;
}

std::int64_t RunningRequest::HistoryLength(const Candidate& candidate) const {
  return std::ssize(fed_tokens_) + std::ssize(candidate.tokens);
}

// Tokens that the candidate's sequence holds.
std::int64_t RunningRequest::LengthAside(const Candidate& candidate) const {
  return Prefilling() ? fed_ : HistoryLength(candidate) - 1;
}

std::int64_t RunningRequest::BytesAside() const {
  const EngineInfo& info = engine_.info();
  std::int64_t bytes = 0;
  for (const Candidate& candidate : candidates_) {
    const std::int64_t length = LengthAside(candidate);
    if (!candidate.finished && length > 0) {
      // An image has the tokens that its keys are of, too.
      const std::int64_t key_bytes =
          info.num_pages == 0 ? 0 : info.key_bytes + std::int64_t{sizeof(TokenId)};
      bytes += info.state_bytes + length * key_bytes +
               HistoryLength(candidate) * std::int64_t{sizeof(TokenId)};
    }
    if (Prefilling()) break;  // the others are empty
  }
  return bytes;
}

// What the candidate's sequence holds, and the tokens that come after it; null for
// nothing.
std::shared_ptr<KeptPrefix> RunningRequest::Freeze(const Candidate& candidate) {
  std::vector<TokenId> history = fed_tokens_;
  history.insert(history.end(), candidate.tokens.begin(), candidate.tokens.end());
  const std::int64_t length = LengthAside(candidate);
  if (length == 0) return nullptr;
  return context_.keeper.Keep(candidate.sequence, length, std::move(history), origin_);
}

void RunningRequest::PutAside() {
  GOLDFINCH_CHECK(!aside_ && CanBePutAside());
  for (Candidate& candidate : candidates_) {
    if (!candidate.finished) candidate.aside = Freeze(candidate);
    if (Prefilling()) break;  // the others are empty
  }
  Close();
  aside_ = true;
}

absl::StatusOr<Grant> RunningRequest::Resume() {
  GOLDFINCH_CHECK(aside_);
  const Grant grant = IsOne() ? MakeRoomForOne() : MakeRoomForCandidates();
  if (grant != Grant::kGranted) return grant;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    Candidate& candidate = candidates_[i];
    if (candidate.finished) continue;
    const bool branches = Prefilling() && i > 0;
    absl::StatusOr<SequenceId> sequence =
        branches ? engine_.OpenBranch(candidates_.front().sequence, prompt_tokens_ - 1,
                                      SpecOf(i))
                 : OpenAside(i);
    if (!sequence.ok()) {
      Close();
      return sequence.status();
    }
    candidate.sequence = *sequence;
  }
  for (Candidate& candidate : candidates_) {
    candidate.aside = nullptr;
    // Little of what was expanded for it need be there any more.
    candidate.ran_in = 0;
    candidate.prepared = 0;
  }
  aside_ = false;
  return Grant::kGranted;
}

Grant RunningRequest::MakeRoomForOne() {
  return MakeRoom(context_, *accepted_,
                  {.base = candidates_.front().aside, .keep_at = keep_at_});
}

Grant RunningRequest::MakeRoomForCandidates() {
  const EngineInfo& info = engine_.info();
  const EngineUsage usage = engine_.usage();
  const std::int64_t whole = info.PagesFor(accepted_->needs.sequence_tokens);
  std::int64_t opened = 0;  // pages that become an open sequence's
  std::int64_t own = 0;     // of them, those that nothing holds yet
  for (const Candidate& candidate : candidates_) {
    if (candidate.finished) continue;
    own += whole;
    if (candidate.aside == nullptr) {
      opened += whole;
      continue;
    }
    opened +=
        context_.keeper.PagesToOpen(*candidate.aside, accepted_->needs.sequence_tokens);
    if (info.num_pages > 0) own -= candidate.aside->length() / info.page_tokens;
  }
  if (unfinished_ > info.num_slots - usage.slots_used ||
      opened > info.num_pages - usage.pages_open) {
    return Grant::kNoRoom;
  }
  // What was brought last goes last, and there is room for all: none drives out another.
  using Room = PrefixKeeper::Room;
  for (const Candidate& candidate : candidates_) {
    if (candidate.aside == nullptr) continue;
    if (context_.keeper.MakeRoom(candidate.aside, 0) != Room::kMade) {
      return Grant::kCopying;
    }
  }
  return context_.keeper.MakeRoom(nullptr, own) == Room::kMade ? Grant::kGranted
                                                               : Grant::kCopying;
}

SequenceSpec RunningRequest::SpecOf(std::size_t index) const {
  SequenceSpec spec =
      SequenceSpecOf(*accepted_, keep_at_, static_cast<std::int32_t>(index));
  if (accepted_->request.kind == RequestKind::kGenerate) {
    spec.num_generated = candidates_[index].generated;
  }
  return spec;
}

absl::StatusOr<SequenceId> RunningRequest::OpenAside(std::size_t index) {
  KeptPrefix* const aside = candidates_[index].aside.get();
  return OpenOn(context_, aside, SpecOf(index),
                aside == nullptr ? std::span<const TokenId>() : aside->history());
}

}  // namespace goldfinch
