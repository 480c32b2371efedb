// The bounds of the server's flags, each at its edges and one beyond.
#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

using testing::StartsWith;

absl::Status Parse(const std::vector<std::string>& flags) {
  std::vector<const char*> argv = {"goldfinch-server", "--model=x"};
  for (const std::string& flag : flags) argv.push_back(flag.c_str());
  return ParseServerFlags(static_cast<int>(argv.size()), argv.data()).status();
}

struct Bounds {
  const char* flag;
  std::int64_t low;
  std::int64_t high;
  std::vector<std::string> with = {};  // what has to be given with it
};

constexpr std::int64_t kMebi = 1048576, kTebi = 1099511627776;
constexpr std::int64_t kDay = 86400, kYear = 366 * kDay;

TEST(FlagBoundsTest, WhatIsWithinIsTakenAndWhatIsBeyondIsNot) {
  const std::vector<Bounds> all = {
      {"--device", 0, 1024},
      {"--threads", 1, 1024},
      {"--cache_bytes", kMebi, 16 * kTebi},
      {"--expanded_bytes", 0, 16 * kTebi},
      {"--max_sequences", 1, 65536},
      {"--page_tokens", 1, 256},
      {"--step_tokens", 1, 1048576},
      {"--step_milliseconds", 0, 60000},
      {"--max_context_tokens", 2, 1073741824, {"--default_max_tokens=1"}},
      {"--default_max_tokens", 1, 7000, {"--max_context_tokens=7000"}},
      {"--max_queued_requests", 1, 1000000},
      {"--max_queued_tokens", 1, kTebi},
      {"--stream_buffer_tokens", 1, 1048576},
      {"--max_queue_seconds", 1, kDay},
      {"--slow_reader_seconds", 1, kDay},
      {"--drain_seconds", 0, kDay},
      {"--aside_bytes", 0, 16 * kTebi},
      {"--prefix_cache_bytes", 0, 16 * kTebi},
      {"--prefix_interval_tokens", 64, 1073741824},
      {"--session_bytes", kMebi, 16 * kTebi},
      {"--max_sessions", 1, 100000000},
      {"--session_idle_to_rest", 0, kYear},
      {"--session_idle_to_park", 0, kYear},
      {"--session_ttl", 0, 10 * kYear},
      {"--session_lease_seconds", 3, kDay},
      {"--max_message_bytes", 4 * kMebi, 1024 * kMebi, {"--grpc_memory_bytes=2GiB"}},
      {"--max_metadata_bytes", 1024, kMebi},
      {"--max_streams_per_connection", 1, 65536},
      {"--max_connection_age_seconds", 1, 20 * kDay},
      {"--max_connection_age_grace_seconds", 1, 20 * kDay},
      {"--min_ping_interval_seconds", 1, kDay},
      {"--max_ping_strikes", 1, 1000},
      {"--grpc_memory_bytes", 16 * kMebi, 16 * kTebi, {"--max_message_bytes=8MiB"}},
      {"--max_memory_bytes", 16 * kMebi, 16 * kTebi},
  };
  for (const Bounds& bounds : all) {
    SCOPED_TRACE(bounds.flag);
    const auto parse = [&](std::int64_t value) {
      std::vector<std::string> flags = bounds.with;
      flags.push_back(absl::StrCat(bounds.flag, "=", value));
      return Parse(flags);
    };
    EXPECT_EQ(parse(bounds.low), absl::OkStatus());
    EXPECT_EQ(parse(bounds.high), absl::OkStatus());
    for (const std::int64_t value : {bounds.low - 1, bounds.high + 1}) {
      const absl::Status status = parse(value);
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      if (value < 0) continue;  // sizes have no sign, and are refused before
      EXPECT_EQ(std::string(status.message()),
                absl::StrCat(bounds.flag, " is ", value, "; it must be in [", bounds.low,
                             ", ", bounds.high, "]"));
    }
  }
}

// Two messages of the largest size have room, whatever that is.
TEST(FlagBoundsTest, ConnectionsHaveRoomForTwoMessages) {
  EXPECT_EQ(Parse({"--max_message_bytes=100MiB", "--grpc_memory_bytes=200MiB"}),
            absl::OkStatus());
  EXPECT_THAT(
      std::string(Parse({"--max_message_bytes=100MiB", "--grpc_memory_bytes=209715199"})
                      .message()),
      StartsWith("--grpc_memory_bytes is 209715199; it must be in [209715200, "));
}

}  // namespace
}  // namespace goldfinch
