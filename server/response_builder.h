// Turns the events of one Generate request into messages of the contract.
//
// Events of a candidate that arrive together share a message, up to a bound that keeps
// every message far below gRPC's default of 4 MiB.
//
// Invariant: the tokens and text of a candidate, joined over its messages, depend on its
// events alone and not on how they were grouped. Text after a stop never appears.
//
// Threads: thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "goldfinch/v1/generation_service.pb.h"
#include "scheduler/request.h"
#include "server/candidate_text.h"
#include "server/text/vocabulary.h"
#include "server/validation.h"

namespace goldfinch {

class ResponseBuilder {
 public:
  // Most tokens in one message. Even if each showed the longest token there may be, or
  // carried the most log-probabilities, a message would stay below 4 MiB.
  static constexpr int kMaxTokensPerMessage = 1024;

  // `vocabulary` outlives this.
  ResponseBuilder(const Vocabulary& vocabulary, const GenerateCall& call);

  // The messages of `events`, candidates in order of their first event.
  std::vector<v1::GenerateResponse> Build(std::span<const StreamEvent> events);

  // The client has these already: what follows continues after them.
  void Skip(std::span<const StreamEvent> events);

  // To be told in the first message.
  void set_numerics_changed(bool changed) { numerics_changed_ = changed; }

  // What was skipped included.
  std::int64_t generated_tokens() const { return generated_tokens_; }

 private:
  struct Candidate {
    CandidateText text;
    // A token that ends the candidate unless min_tokens hold it back: whether its text
    // is shown is known only with the next event.
    std::optional<TokenId> undecided;
    bool started = false;
  };

  v1::GenerateResponse& MessageOf(std::int32_t candidate,
                                  std::vector<v1::GenerateResponse>& messages);
  void AddToken(const SampledToken& sample, Candidate& candidate,
                v1::GenerateResponse& message);
  void AddEnd(const StreamEvent& event, Candidate& candidate,
              v1::GenerateResponse& message);

  const std::vector<std::string> stop_;
  const std::vector<TokenId> stop_token_ids_;  // sorted
  const bool with_logprobs_;
  const bool show_stop_;
  const std::uint64_t seed_;
  std::vector<Candidate> candidates_;
  std::vector<int> open_;  // by candidate: its message that can take more, or -1
  std::int64_t generated_tokens_ = 0;
  bool numerics_changed_ = false;
};

// Shared with Score.
void FillUsage(const RequestUsage& usage, v1::Usage& out);

}  // namespace goldfinch
