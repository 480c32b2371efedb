// What one connection may cost: messages, headers, streams, age, pings and memory are
// bounded.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/raw_connection.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr char kGetModel[] = "/goldfinch.v1.GenerationService/GetModel";
constexpr char kTokenize[] = "/goldfinch.v1.GenerationService/Tokenize";

// The client's half of the beginning of HTTP/2: the preface and empty SETTINGS.
const std::string& Preface() {
  static const std::string preface = std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") +
                                     std::string("\0\0\0\x04\0\0\0\0\0", 9);
  return preface;
}

const std::string& Ping() {
  static const std::string ping = std::string("\0\0\x08\x06\0\0\0\0\0", 9) + "12345678";
  return ping;
}

std::uint32_t Number(const std::string& bytes, std::size_t at, std::size_t size) {
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < size; ++i) {
    number = number << 8 | static_cast<unsigned char>(bytes[at + i]);
  }
  return number;
}

constexpr int kGoAway = 7;

// The kinds of frames in what the server said.
std::set<int> FramesIn(const std::string& bytes) {
  std::set<int> kinds;
  for (std::size_t at = 0; at + 9 <= bytes.size(); at += 9 + Number(bytes, at, 3)) {
    kinds.insert(bytes[at + 3]);
  }
  return kinds;
}

// The server's settings, from what it said before it closed.
std::map<std::uint32_t, std::uint32_t> SettingsIn(const std::string& bytes) {
  std::map<std::uint32_t, std::uint32_t> settings;
  for (std::size_t at = 0; at + 9 <= bytes.size();) {
    const std::size_t size = Number(bytes, at, 3);
    if (bytes[at + 3] == 4) {
      for (std::size_t i = 0; i + 6 <= size && at + 9 + i + 6 <= bytes.size(); i += 6) {
        settings[Number(bytes, at + 9 + i, 2)] = Number(bytes, at + 9 + i + 2, 4);
      }
    }
    at += 9 + size;
  }
  return settings;
}

TestServerOptions Limited(const ConnectionLimits& limits) {
  TestServerOptions options;
  options.engine.num_pages = 100000;
  options.connections = limits;
  return options;
}

TEST(ConnectionsTest, AMessageAboveTheLimitIsRefused) {
  ConnectionLimits limits;
  limits.max_message_bytes = 65536;
  TestServer server(Limited(limits));
  v1::TokenizeRequest request;
  request.set_text(std::string(20000, 'x'));
  EXPECT_TRUE(
      CallAny(server.NewChannel(), kTokenize, {}, request.SerializeAsString()).ok());
  request.set_text(std::string(70000, 'x'));
  EXPECT_EQ(CallAny(server.NewChannel(), kTokenize, {}, request.SerializeAsString())
                .error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
}

TEST(ConnectionsTest, HeadersAboveTheLimitAreRefused) {
  ConnectionLimits limits;
  limits.max_metadata_bytes = 4096;
  TestServer server(Limited(limits));
  const auto call = [&server](const Headers& headers) {
    return CallAny(server.NewChannel(), kGetModel, headers).ok();
  };
  EXPECT_TRUE(call({{"x", std::string(2000, 'x')}}));
  EXPECT_FALSE(call({{"x", std::string(6000, 'x')}}));
  // The library may close the connection as well, so on another one.
  EXPECT_TRUE(call({}));
}

// Three strikes and a close, so the settings can be read to the end.
TEST(ConnectionsTest, LimitsAreToldAndTooManyPingsCloseTheConnection) {
  ConnectionLimits limits;
  limits.max_streams = 7;
  limits.max_metadata_bytes = 12345;
  limits.max_ping_strikes = 3;
  TestServer server(Limited(limits));
  const RawConnection client(server.server().port());
  std::string bytes = Preface();
  for (int i = 0; i < 10; ++i) bytes += Ping();
  ASSERT_TRUE(client.Send(bytes));
  const std::string answer = client.ReadToEnd();
  EXPECT_THAT(answer, HasSubstr("too_many_pings"));
  const auto settings = SettingsIn(answer);
  EXPECT_EQ(settings.at(3), 7u);      // MAX_CONCURRENT_STREAMS
  EXPECT_EQ(settings.at(6), 12345u);  // MAX_HEADER_LIST_SIZE
  EXPECT_TRUE(CallAny(server.NewChannel(), kGetModel).ok());
}

TEST(ConnectionsTest, AnOldConnectionIsClosed) {
  ConnectionLimits limits;
  limits.max_age_seconds = 1;
  limits.max_age_grace_seconds = 1;
  TestServer server(Limited(limits));
  // One with a call that would go on: that gets the grace.
  v1::GenerateRequest request = TextRequest("endless", 1000000);
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext context;
  const auto reader = server.stub().Generate(&context, request);
  const RawConnection idle(server.server().port());
  ASSERT_TRUE(idle.Send(Preface()));
  EXPECT_TRUE(FramesIn(idle.ReadToEnd()).contains(kGoAway));
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(CallAny(server.NewChannel(), kGetModel).ok());
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(ConnectionsTest, WhatExceedsTheMemoryIsRefusedAndTheRestIsServed) {
  ConnectionLimits limits;
  limits.memory_bytes = 1 << 20;
  TestServer server(Limited(limits));
  v1::TokenizeRequest request;
  request.set_text(std::string(10000000, 'x'));
  EXPECT_EQ(CallAny(server.NewChannel(), kTokenize, {}, request.SerializeAsString())
                .error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  request.set_text(std::string(10000, 'x'));
  EXPECT_TRUE(
      CallAny(server.NewChannel(), kTokenize, {}, request.SerializeAsString()).ok());
}

}  // namespace
}  // namespace goldfinch
