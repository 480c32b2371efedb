#include "scheduler/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace goldfinch {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A waiting request that takes memory, and what there is of it.
struct Needy {
  std::int32_t priority = 0;
  std::uint64_t arrival = 0;
  std::int64_t slots = 0;
  std::int64_t pages = 0;
};
struct FreeMemory {
  std::int64_t slots = 0;
  std::int64_t pages = 0;
};

Needy Waiting(std::uint64_t arrival, std::int64_t pages, std::int32_t priority = 0) {
  return {.priority = priority, .arrival = arrival, .slots = 1, .pages = pages};
}

// Admission by somebody who grants what is free.
std::vector<std::size_t> Admit(const std::vector<Needy>& waiting, FreeMemory free) {
  std::vector<WaitingRequest> order;
  for (const Needy& needy : waiting) {
    order.push_back({.priority = needy.priority, .arrival = needy.arrival});
  }
  std::vector<std::size_t> admitted;
  goldfinch::Admit(order, [&](std::size_t i) {
    if (waiting[i].slots > free.slots || waiting[i].pages > free.pages) return false;
    free.slots -= waiting[i].slots;
    free.pages -= waiting[i].pages;
    admitted.push_back(i);
    return true;
  });
  return admitted;
}

TEST(AdmissionTest, EqualPrioritiesAreFirstComeFirstServed) {
  const std::vector<Needy> waiting = {Waiting(3, 1), Waiting(1, 1), Waiting(2, 1)};
  EXPECT_THAT(Admit(waiting, {.slots = 9, .pages = 9}), ElementsAre(1, 2, 0));
}

TEST(AdmissionTest, TheHighestPriorityGoesFirst) {
  const std::vector<Needy> waiting = {Waiting(1, 1, -5), Waiting(2, 1, 0),
                                      Waiting(3, 1, 7)};
  EXPECT_THAT(Admit(waiting, {.slots = 2, .pages = 9}), ElementsAre(2, 1));
}

TEST(AdmissionTest, SlotsAndPagesBothLimit) {
  const std::vector<Needy> waiting = {Waiting(1, 4), Waiting(2, 4), Waiting(3, 4)};
  EXPECT_THAT(Admit(waiting, {.slots = 9, .pages = 8}), ElementsAre(0, 1));
  EXPECT_THAT(Admit(waiting, {.slots = 1, .pages = 99}), ElementsAre(0));
  EXPECT_THAT(Admit(waiting, {.slots = 0, .pages = 99}), IsEmpty());
}

TEST(AdmissionTest, ASmallerRequestDoesNotOvertakeOneThatWaits) {
  const std::vector<Needy> waiting = {Waiting(1, 6), Waiting(2, 1)};
  EXPECT_THAT(Admit(waiting, {.slots = 9, .pages = 5}), IsEmpty());
  EXPECT_THAT(Admit(waiting, {.slots = 9, .pages = 7}), ElementsAre(0, 1));
}

TEST(AdmissionTest, CandidatesAreAdmittedTogetherOrNotAtAll) {
  const std::vector<Needy> waiting = {{.arrival = 1, .slots = 4, .pages = 4}};
  EXPECT_THAT(Admit(waiting, {.slots = 3, .pages = 9}), IsEmpty());
  EXPECT_THAT(Admit(waiting, {.slots = 4, .pages = 4}), ElementsAre(0));
}

TEST(AdmissionTest, RandomQueuesNeverOverdrawAndAreAPrefixOfTheOrder) {
  std::mt19937_64 random(21);
  for (int round = 0; round < 2000; ++round) {
    std::vector<Needy> waiting(random() % 20);
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      waiting[i] = {.priority = static_cast<std::int32_t>(random() % 3),
                    .arrival = i,
                    .slots = static_cast<std::int64_t>(1 + random() % 4),
                    .pages = static_cast<std::int64_t>(random() % 10)};
    }
    std::ranges::shuffle(waiting, random);
    const FreeMemory free{.slots = static_cast<std::int64_t>(random() % 20),
                          .pages = static_cast<std::int64_t>(random() % 40)};
    const std::vector<std::size_t> admitted = Admit(waiting, free);

    std::vector<std::size_t> order(waiting.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::sort(order, {}, [&](std::size_t i) {
      return std::pair(-waiting[i].priority, waiting[i].arrival);
    });
    std::int64_t slots = 0;
    std::int64_t pages = 0;
    ASSERT_LE(admitted.size(), order.size());
    for (std::size_t i = 0; i < admitted.size(); ++i) {
      ASSERT_EQ(admitted[i], order[i]);
      slots += waiting[admitted[i]].slots;
      pages += waiting[admitted[i]].pages;
    }
    ASSERT_LE(slots, free.slots);
    ASSERT_LE(pages, free.pages);
    if (admitted.size() == order.size()) continue;
    const Needy& next = waiting[order[admitted.size()]];
    ASSERT_TRUE(slots + next.slots > free.slots || pages + next.pages > free.pages)
        << "memory left idle without a reason";
  }
}

// A large request among a steady flow of small ones gets in as soon as what ran before
// it has ended.
TEST(AdmissionTest, AFlowOfSmallRequestsDoesNotStarveALargeOne) {
  std::vector<Needy> waiting = {Waiting(0, 10)};
  std::vector<std::int64_t> ends = {1, 2, 3, 4, 5};  // of the small ones running, 2 pages
  FreeMemory free{.slots = 10, .pages = 0};
  for (std::int64_t step = 1;; ++step) {
    ASSERT_LE(step, 5);
    waiting.push_back(Waiting(static_cast<std::uint64_t>(step), 2));
    free.pages += 2 * std::erase(ends, step);
    const std::vector<std::size_t> admitted = Admit(waiting, free);
    if (admitted.empty()) continue;
    EXPECT_EQ(admitted.front(), 0u);
    EXPECT_EQ(step, 5);
    break;
  }
}

}  // namespace
}  // namespace goldfinch
