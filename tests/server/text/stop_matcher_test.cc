#include "server/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "tests/server/text/text_test_support.h"

namespace goldfinch {
namespace {

std::shared_ptr<const StopStrings> Stops(const std::vector<std::string>& strings) {
  return StopStrings::Create(strings).value();
}

struct Outcome {
  std::string text;
  std::optional<int> matched;
  bool operator==(const Outcome&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
  return out << '"' << outcome.text << "\" matched " << outcome.matched.value_or(-1);
}

// The plain twin: of every end the first, of every string that ends there the longest.
Outcome Reference(const std::string& text, const std::vector<std::string>& stops,
                  StopText stop_text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string_view head = std::string_view(text).substr(0, end);
    std::optional<int> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (!head.ends_with(stops[i])) continue;
      if (best && stops[static_cast<size_t>(*best)].size() >= stops[i].size()) continue;
      best = static_cast<int>(i);
    }
    if (!best) continue;
    const size_t cut = stop_text == StopText::kInclude
                           ? end
                           : end - stops[static_cast<size_t>(*best)].size();
    return {text.substr(0, cut), best};
  }
  return {text, std::nullopt};
}

// The longest suffix of `text` that is a proper prefix of a stop string.
std::string ReferenceHeld(const std::string& text,
                          const std::vector<std::string>& stops) {
  for (size_t begin = 0; begin < text.size(); ++begin) {
    const std::string suffix = text.substr(begin);
    for (const std::string& stop : stops) {
      if (suffix.size() < stop.size() && stop.starts_with(suffix)) return suffix;
    }
  }
  return "";
}

Outcome MatchAll(StopMatcher matcher, const std::vector<std::string>& pieces) {
  Outcome outcome;
  for (const std::string& piece : pieces) matcher.Push(piece, outcome.text);
  matcher.Flush(outcome.text);
  outcome.matched = matcher.matched();
  return outcome;
}

TEST(StopMatcherTest, ReleasesTheTextBeforeTheStop) {
  const StopMatcher matcher(Stops({"END"}), StopText::kExclude);
  EXPECT_EQ(MatchAll(matcher, {"one END two"}), (Outcome{"one ", 0}));
  EXPECT_EQ(MatchAll(matcher, {"one E", "N", "D two"}), (Outcome{"one ", 0}));
  EXPECT_EQ(MatchAll(matcher, {"one EN", " two"}), (Outcome{"one EN two", std::nullopt}));
}

TEST(StopMatcherTest, IncludesTheStopWhenAsked) {
  const StopMatcher matcher(Stops({"END"}), StopText::kInclude);
  EXPECT_EQ(MatchAll(matcher, {"one E", "ND two"}), (Outcome{"one END", 0}));
}

TEST(StopMatcherTest, HoldsBackOnlyWhatMayBeginAStop) {
  StopMatcher matcher(Stops({"\n\nUser:"}), StopText::kExclude);
  std::string text;
  matcher.Push("Yes.\n", text);
  EXPECT_EQ(text, "Yes.");
  EXPECT_EQ(matcher.held(), "\n");
  matcher.Push("\n\n", text);
  EXPECT_EQ(text, "Yes.\n");
  EXPECT_EQ(matcher.held(), "\n\n");
  matcher.Push("No", text);
  EXPECT_EQ(text, "Yes.\n\n\nNo");
  EXPECT_EQ(matcher.held(), "");
}

TEST(StopMatcherTest, FlushReleasesWhatWasHeld) {
  StopMatcher matcher(Stops({"stop"}), StopText::kExclude);
  std::string text;
  matcher.Push("don't sto", text);
  EXPECT_EQ(text, "don't ");
  matcher.Flush(text);
  EXPECT_EQ(text, "don't sto");
  EXPECT_EQ(matcher.matched(), std::nullopt);
}

TEST(StopMatcherTest, TheMatchThatEndsFirstWins) {
  const StopMatcher matcher(Stops({"abcd", "bc"}), StopText::kExclude);
  EXPECT_EQ(MatchAll(matcher, {"xabcd"}), (Outcome{"xa", 1}));
}

TEST(StopMatcherTest, OfMatchesEndingTogetherTheLongestWinsThenTheLowestIndex) {
  EXPECT_EQ(MatchAll({Stops({"c", "abc", "bc"}), StopText::kExclude}, {"xab", "c"}),
            (Outcome{"x", 1}));
  EXPECT_EQ(MatchAll({Stops({"zz", "bc", "bc"}), StopText::kExclude}, {"abc"}),
            (Outcome{"a", 1}));
}

TEST(StopMatcherTest, NothingIsReleasedAfterAMatch) {
  StopMatcher matcher(Stops({"x"}), StopText::kExclude);
  std::string text;
  matcher.Push("axb", text);
  matcher.Push("cxd", text);
  matcher.Flush(text);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(matcher.matched(), 0);
}

TEST(StopMatcherTest, WithoutStopStringsEverythingPassesAtOnce) {
  StopMatcher matcher(Stops({}), StopText::kExclude);
  std::string text;
  matcher.Push("abc", text);
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(matcher.matched(), std::nullopt);
}

TEST(StopMatcherTest, RefusesAnEmptyOrBrokenStopString) {
  const auto message = [](const std::vector<std::string>& strings) {
    return std::string(StopStrings::Create(strings).status().message());
  };
  EXPECT_EQ(message({"a", ""}), "stop string 1 has 0 bytes; it needs at least 1");
  EXPECT_EQ(message({"\xC3"}), "stop string 0 is not valid UTF-8");
}

struct RandomCase {
  std::vector<std::string> stops;
  std::string text;
};

RandomCase MakeRandomCase(Random& random) {
  RandomCase made;
  const std::string_view alphabet = random() % 2 == 0 ? "ab" : "abc";
  for (size_t n = 1 + RandomBelow(random, 4); n > 0; --n) {
    made.stops.push_back(RandomString(random, 1 + RandomBelow(random, 7), alphabet));
  }
  made.text = RandomString(random, RandomBelow(random, 40), alphabet);
  return made;
}

TEST(StopMatcherTest, EqualsThePlainTwinHoweverTheTextIsCut) {
  Random random(8);
  for (int round = 0; round < 30000; ++round) {
    const auto [stops, text] = MakeRandomCase(random);
    for (const StopText stop_text : {StopText::kExclude, StopText::kInclude}) {
      const Outcome expected = Reference(text, stops, stop_text);
      const StopMatcher matcher(Stops(stops), stop_text);
      ASSERT_EQ(MatchAll(matcher, {text}), expected);
      ASSERT_EQ(MatchAll(matcher, RandomPieces(random, text, 2)), expected);
      ASSERT_EQ(MatchAll(matcher, RandomPieces(random, text, 9)), expected);
    }
  }
}

TEST(StopMatcherTest, AtEveryMomentExactlyThePossibleBeginningIsHeld) {
  Random random(9);
  for (int round = 0; round < 10000; ++round) {
    const auto [stops, text] = MakeRandomCase(random);
    const size_t shown = Reference(text, stops, StopText::kExclude).text.size();
    StopMatcher matcher(Stops(stops), StopText::kExclude);
    std::string pushed, released;
    for (const std::string& piece : RandomPieces(random, text, 6)) {
      pushed += piece;
      matcher.Push(piece, released);
      ASSERT_LE(released.size(), shown) << "part of a match leaked";
      if (matcher.matched()) break;
      const std::string held = ReferenceHeld(pushed, stops);
      ASSERT_EQ(matcher.held(), held);
      ASSERT_EQ(released, pushed.substr(0, pushed.size() - held.size()));
    }
  }
}

TEST(StopMatcherTest, HeldTextRestoresTheState) {
  Random random(10);
  for (int round = 0; round < 5000; ++round) {
    const auto [stops, text] = MakeRandomCase(random);
    StopMatcher original(Stops(stops), StopText::kExclude);
    std::string ignored, expected, actual;
    const size_t cut = RandomBelow(random, text.size() + 1);
    original.Push(text.substr(0, cut), ignored);
    if (original.matched()) continue;
    StopMatcher restored(Stops(stops), StopText::kExclude);
    restored.Push(original.held(), actual);
    ASSERT_EQ(actual, "");
    StopMatcher copy = original;
    original.Push(text.substr(cut), expected);
    restored.Push(text.substr(cut), actual);
    ASSERT_EQ(actual, expected);
    ASSERT_EQ(restored.matched(), original.matched());
    std::string copied;
    copy.Push(text.substr(cut), copied);
    ASSERT_EQ(copied, expected);
  }
}

}  // namespace
}  // namespace goldfinch
