#include "server/transfer_room.h"

#include <gtest/gtest.h>

#include <deque>
#include <optional>

namespace goldfinch {
namespace {

TEST(TransferRoomTest, CallsShareItAndGiveItBack) {
  TransferRoom room(1000);
  TransferShare stays(room, "a");
  ASSERT_TRUE(stays.Take(250).ok());
  std::optional<TransferShare> goes(std::in_place, room, "a");
  ASSERT_TRUE(goes->Take(400).ok());
  EXPECT_TRUE(goes->Take(100).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(goes->Take(1)));
  EXPECT_EQ(goes->taken(), 500) << "what was refused is not taken";
  goes.reset();
  EXPECT_TRUE(stays.Take(500).ok());
}

TEST(TransferRoomTest, WhoIsAloneHasRoomForAnything) {
  TransferRoom room(1000);
  TransferShare one(room, "a");
  EXPECT_TRUE(one.Take(700).ok());
  EXPECT_TRUE(one.Take(700).ok());
  TransferShare another(room, "b");
  EXPECT_TRUE(absl::IsResourceExhausted(another.Take(1)));
}

TEST(TransferRoomTest, ATenantCannotKeepTheOthersOut) {
  TransferRoom room(1000);
  std::deque<TransferShare> flood;
  while (flood.emplace_back(room, "greedy").Take(50).ok()) {
  }
  TransferShare other(room, "modest");
  EXPECT_TRUE(other.Take(200).ok());
  EXPECT_TRUE(other.Take(50).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(other.Take(50))) << "the room is full";
  // What is given back comes to whoever has little.
  flood.clear();
  EXPECT_TRUE(other.Take(600).ok());
}

TEST(TransferRoomTest, WhatATenantHasIsForgottenWithItsLastCall) {
  TransferRoom room(1000);
  TransferShare first(room, "b");
  ASSERT_TRUE(first.Take(10).ok());
  { TransferShare(room, "a").Take(740).IgnoreError(); }
  TransferShare again(room, "a");
  EXPECT_TRUE(again.Take(740).ok());
}

}  // namespace
}  // namespace goldfinch
