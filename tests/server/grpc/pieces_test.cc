// The parts of the front end that can be looked at without a channel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/candidate_text.h"
#include "server/delivery_queue.h"
#include "server/open_calls.h"
#include "server/response_builder.h"
#include "server/status.h"
#include "server/stuck_call_sweep.h"
#include "server/text/tokenizer.h"
#include "server/validation.h"
#include "tests/fakes/fake_clock.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

GenerateCall CallOf(const v1::GenerateRequest& request) {
  static const auto* const tokenizer = new Tokenizer(TestVocabulary());
  return ValidateGenerate(request, {TestVocabulary(), *tokenizer, 1 << 20, 16}).value();
}

using Events = std::vector<StreamEvent>;

StreamEvent TokenEvent(TokenId token, std::int32_t candidate = 0) {
  StreamEvent event;
  event.candidate = candidate;
  event.sample.token = token;
  return event;
}

StreamEvent EndEvent(FinishReason reason, StopMatch::Kind kind, TokenId token = 0) {
  StreamEvent event;
  event.kind = StreamEvent::Kind::kFinished;
  event.finish_reason = reason;
  event.stop.kind = kind;
  event.stop.token = token;
  return event;
}

TEST(ResponseBuilderTest, EventsThatCameTogetherShareAMessagePerCandidate) {
  v1::GenerateRequest request = TextRequest("x", 10);
  request.mutable_sampling()->set_n(2);
  ResponseBuilder builder(TestVocabulary(), CallOf(request));
  const auto messages = builder.Build(Events{TokenEvent(300, 1), TokenEvent(301, 0),
                                             TokenEvent(302, 1), TokenEvent(303, 1)});
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].candidate(), 1);
  EXPECT_THAT(messages[0].tokens(), ElementsAre(300, 302, 303));
  EXPECT_EQ(messages[0].text(), TextOf({300, 302, 303}));
  EXPECT_THAT(messages[1].tokens(), ElementsAre(301));
  EXPECT_TRUE(messages[0].has_seed());
  EXPECT_FALSE(builder.Build(Events{TokenEvent(300, 1)})[0].has_seed());
}

TEST(ResponseBuilderTest, AMessageHoldsABoundedNumberOfTokens) {
  ResponseBuilder builder(TestVocabulary(), CallOf(TextRequest("x", 10000)));
  const std::vector<StreamEvent> events(2 * ResponseBuilder::kMaxTokensPerMessage + 1,
                                        TokenEvent(300));
  const auto messages = builder.Build(events);
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].tokens_size(), ResponseBuilder::kMaxTokensPerMessage);
  EXPECT_EQ(messages[2].tokens_size(), 1);
}

TEST(ResponseBuilderTest, NoEventsAreNoMessages) {
  ResponseBuilder builder(TestVocabulary(), CallOf(TextRequest("x", 10)));
  EXPECT_THAT(builder.Build(Events{}), IsEmpty());
}

// min_tokens can let a stop token pass; only the next event says so.
TEST(ResponseBuilderTest, AStopTokenThatDidNotEndTheCandidateIsShownAfterAll) {
  v1::GenerateRequest request = TextRequest("x", 10);
  request.mutable_sampling()->add_stop_token_ids(300);
  ResponseBuilder builder(TestVocabulary(), CallOf(request));
  EXPECT_EQ(builder.Build(Events{TokenEvent(300)})[0].text(), "");
  EXPECT_EQ(builder.Build(Events{TokenEvent(301)})[0].text(), TextOf({300, 301}));
  EXPECT_EQ(builder.Build(Events{TokenEvent(300)})[0].text(), "");
  const auto last =
      builder.Build(Events{EndEvent(FinishReason::kLength, StopMatch::Kind::kNone)});
  EXPECT_EQ(last[0].text(), TextOf({300}));
  EXPECT_EQ(last[0].finish_reason(), v1::FINISH_REASON_LENGTH);
}

// The U+FFFD of a broken last character appears only at the end, and may be a stop.
TEST(ResponseBuilderTest, AStopThatTheEndCompletesIsStillAStop) {
  v1::GenerateRequest request = TextRequest("x", 10);
  request.mutable_sampling()->add_stop("\ufffd");
  ResponseBuilder builder(TestVocabulary(), CallOf(request));
  const TokenId head_of_a_character = 1 + 0xc3;
  EXPECT_EQ(
      builder.Build(Events{TokenEvent(300), TokenEvent(head_of_a_character)})[0].text(),
      TextOf({300}));
  const auto last =
      builder.Build(Events{EndEvent(FinishReason::kLength, StopMatch::Kind::kNone)});
  EXPECT_EQ(last[0].text(), "");
  EXPECT_EQ(last[0].finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(last[0].matched_stop(), "\ufffd");
}

// A character whose bytes lie on both sides of min_tokens is neither lost nor doubled.
TEST(CandidateTextTest, ACharacterAcrossMinTokensStaysWhole) {
  TextOptions options = CallOf(TextRequest("x", 10)).text;
  options.min_tokens = 1;
  CandidateText candidate(TestVocabulary(), options);
  std::string text;
  candidate.Push(1 + 0xc3, text);
  EXPECT_EQ(text, "");
  candidate.Push(1 + 0xa9, text);
  EXPECT_EQ(text, "\u00e9");
}

TEST(DeliveryQueueTest, RunsEverythingInOrderEvenWhatIsLeftAtTheEnd) {
  std::vector<int> seen;
  {
    DeliveryQueue queue;
    for (int i = 0; i < 1000; ++i) {
      queue.Post([&seen, i] { seen.push_back(i); });
    }
  }
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(seen, expected);
}

class RecordingCall : public OpenCall {
 public:
  void CutOffIfStuck(TimePoint since) override { last_ = since; }
  TimePoint last() const { return last_; }

 private:
  std::atomic<TimePoint> last_ = TimePoint();
};

TEST(OpenCallsTest, EmptiesOnlyWhenTheLastCallHasLeft) {
  OpenCalls calls;
  const auto call = std::make_shared<RecordingCall>();
  ASSERT_TRUE(calls.Enter(call));
  calls.Close();
  EXPECT_FALSE(calls.Enter(std::make_shared<RecordingCall>()));
  EXPECT_FALSE(calls.WaitUntilEmpty(std::chrono::steady_clock::now()));
  std::thread leaver([&] { calls.Leave(call); });
  EXPECT_TRUE(
      calls.WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::minutes(10)));
  leaver.join();
}

TEST(OpenCallsTest, InterruptEndsTheWait) {
  OpenCalls calls;
  ASSERT_TRUE(calls.Enter(std::make_shared<RecordingCall>()));
  calls.Interrupt();
  EXPECT_FALSE(
      calls.WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::hours(10)));
}

TEST(StuckCallSweepTest, AsksForWritesOlderThanALittleMoreThanTheLimit) {
  FakeClock clock;
  OpenCalls calls;
  const auto call = std::make_shared<RecordingCall>();
  ASSERT_TRUE(calls.Enter(call));
  const auto limit = std::chrono::milliseconds(4);
  const StuckCallSweep sweep(calls, clock, limit);
  clock.Advance(std::chrono::hours(1));
  EXPECT_TRUE(
      Eventually([&] { return call->last() == clock.Now() - limit - limit / 4; }));
}

TEST(StatusTest, CodesAndMessagesPassAndLongMessagesAreCut) {
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status =
        ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(code), "why"));
    EXPECT_EQ(status.error_code(), code);
    EXPECT_EQ(status.error_message(), "why");
    EXPECT_EQ(!status.error_details().empty(),
              code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                  code == grpc::StatusCode::UNAVAILABLE);
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_EQ(
      ToGrpcStatus(absl::InternalError(std::string(100000, 'x'))).error_message().size(),
      1024u);
}

}  // namespace
}  // namespace goldfinch
