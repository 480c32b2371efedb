#include "scheduler/token_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

namespace goldfinch {
namespace {

constexpr TimePoint kNow{};

StreamEvent Token(TokenId token) {
  StreamEvent event;
  event.sample.token = token;
  return event;
}

TEST(TokenStreamTest, EventsComeOutInOrderAndTheEndAfterThem) {
  TokenStream stream(4);
  EXPECT_TRUE(stream.Take().events.empty());
  stream.Push(Token(1), kNow);
  stream.Push(Token(2), kNow);
  TokenStream::Batch batch = stream.Take();
  ASSERT_EQ(batch.events.size(), 2u);
  EXPECT_EQ(batch.events[0].sample.token, 1);
  EXPECT_EQ(batch.events[1].sample.token, 2);
  EXPECT_FALSE(batch.end);
  stream.Push(Token(3), kNow);
  stream.End(absl::CancelledError("first"));
  batch = stream.Take();
  EXPECT_EQ(batch.events.size(), 1u);
  ASSERT_TRUE(batch.end);
  EXPECT_EQ(batch.end->message(), "first");
}

TEST(TokenStreamTest, TheEndIsSetAndTakenOnce) {
  TokenStream stream(4);
  stream.End(absl::CancelledError("first"));
  stream.End(absl::OkStatus());
  stream.Push(Token(1), kNow);
  TokenStream::Batch batch = stream.Take();
  EXPECT_TRUE(batch.events.empty());
  EXPECT_EQ(batch.end->message(), "first");
  batch = stream.WaitAndTake(TimePoint::max());  // does not wait for what cannot come
  EXPECT_TRUE(batch.events.empty());
  EXPECT_FALSE(batch.end);
}

TEST(TokenStreamTest, OnlyTokenEventsTakeRoom) {
  TokenStream stream(2);
  EXPECT_TRUE(stream.HasRoom(2));
  stream.Push(Token(1), kNow);
  EXPECT_TRUE(stream.HasRoom(1));
  EXPECT_FALSE(stream.HasRoom(2));
  StreamEvent finished;
  finished.kind = StreamEvent::Kind::kFinished;
  stream.Push(finished, kNow);
  EXPECT_TRUE(stream.HasRoom(1));
  stream.Take();
  EXPECT_TRUE(stream.HasRoom(5)) << "an empty stream always has room";
}

TEST(TokenStreamTest, ATakeWakesAWriterThatFoundNoRoomOnce) {
  int woken = 0;
  TokenStream stream(1, [&] { ++woken; });
  stream.Push(Token(1), kNow);
  stream.Take();
  EXPECT_EQ(woken, 0);
  stream.Push(Token(2), kNow);
  EXPECT_FALSE(stream.HasRoom(1));
  stream.Take();
  EXPECT_EQ(woken, 1);
  stream.Take();
  EXPECT_EQ(woken, 1);
}

TEST(TokenStreamTest, WaitingSinceIsThePushOfTheOldestEventHeld) {
  TokenStream stream(4);
  const TimePoint start = TimePoint() + std::chrono::seconds(10);
  EXPECT_FALSE(stream.waiting_since());
  stream.Push(Token(1), start);
  stream.Push(Token(2), start + std::chrono::seconds(1));
  EXPECT_EQ(stream.waiting_since(), start);
  stream.Take();
  EXPECT_FALSE(stream.waiting_since());
  stream.Push(Token(3), start + std::chrono::seconds(2));
  EXPECT_EQ(stream.waiting_since(), start + std::chrono::seconds(2));
}

TEST(TokenStreamTest, ReadyIsCalledWhenThereWasNothingToTakeBefore) {
  TokenStream stream(8);
  int calls = 0;
  stream.SetReadyCallback([&] { ++calls; });
  EXPECT_EQ(calls, 0);
  stream.Push(Token(1), kNow);
  EXPECT_EQ(calls, 1);
  stream.Push(Token(2), kNow);
  EXPECT_EQ(calls, 1);
  stream.Take();
  stream.Push(Token(3), kNow);
  EXPECT_EQ(calls, 2);
  stream.Take();
  stream.End(absl::OkStatus());
  EXPECT_EQ(calls, 3);
}

TEST(TokenStreamTest, ReadyIsNotCalledForAnEndBehindEventsNotYetTaken) {
  TokenStream stream(8);
  int calls = 0;
  stream.SetReadyCallback([&] { ++calls; });
  stream.Push(Token(1), kNow);
  stream.End(absl::OkStatus());
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(stream.Take().end);
}

TEST(TokenStreamTest, ReadyIsCalledAtOnceForWhatIsAlreadyThere) {
  TokenStream stream(8);
  stream.Push(Token(1), kNow);
  int calls = 0;
  stream.SetReadyCallback([&] { ++calls; });
  EXPECT_EQ(calls, 1);
  stream.SetReadyCallback(nullptr);
  stream.Take();
  stream.Push(Token(2), kNow);
  EXPECT_EQ(calls, 1) << "called after it was detached";
}

TEST(TokenStreamTest, ReadyMayTakeAndDetach) {
  TokenStream stream(8);
  std::size_t taken = 0;
  stream.SetReadyCallback([&] {
    taken += stream.Take().events.size();
    if (taken == 2) stream.SetReadyCallback(nullptr);
  });
  for (TokenId token = 0; token < 5; ++token) stream.Push(Token(token), kNow);
  EXPECT_EQ(taken, 2u);
}

TEST(TokenStreamTest, DetachingWaitsForARunningCallback) {
  TokenStream stream(8);
  std::atomic<bool> entered = false;
  std::atomic<bool> leave = false;
  std::atomic<bool> left = false;
  stream.SetReadyCallback([&] {
    entered = true;
    entered.notify_all();
    leave.wait(false);
    left = true;
  });
  std::thread writer([&] { stream.Push(Token(1), kNow); });
  entered.wait(false);
  std::thread detacher([&] {
    stream.SetReadyCallback(nullptr);
    EXPECT_TRUE(left);
  });
  leave = true;
  leave.notify_all();
  writer.join();
  detacher.join();
}

TEST(TokenStreamTest, AReaderThreadGetsEverything) {
  TokenStream stream(16);
  constexpr TokenId kCount = 20000;
  std::thread writer([&] {
    for (TokenId token = 0; token < kCount; ++token) stream.Push(Token(token), kNow);
    stream.End(absl::OkStatus());
  });
  TokenId next = 0;
  for (bool ended = false; !ended;) {
    const TokenStream::Batch batch = stream.WaitAndTake(TimePoint::max());
    for (const StreamEvent& event : batch.events) {
      ASSERT_EQ(event.sample.token, next);
      ++next;
    }
    ended = batch.end.has_value();
  }
  writer.join();
  EXPECT_EQ(next, kCount);
}

}  // namespace
}  // namespace goldfinch
