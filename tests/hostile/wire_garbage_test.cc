// Bytes on the port of gRPC that are no message, no frame or no HTTP/2 at all. Whoever
// sends them gets an error or no connection, and nobody else notices.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/hostile/attacked_server.h"
#include "tests/hostile/peak_memory.h"
#include "tests/hostile/raw_call.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/session_client.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::AnyOf;

constexpr char kGenerate[] = "/goldfinch.v1.GenerationService/Generate";
constexpr char kTokenize[] = "/goldfinch.v1.GenerationService/Tokenize";
constexpr char kReflection[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

std::string Nonsense(std::mt19937& random, std::size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

std::string Compressed(const std::string& bytes) {
  uLongf size = compressBound(bytes.size());
  std::string out(size, '\0');
  EXPECT_EQ(compress2(reinterpret_cast<Bytef*>(out.data()), &size,
                      reinterpret_cast<const Bytef*>(bytes.data()), bytes.size(),
                      Z_BEST_COMPRESSION),
            Z_OK);
  out.resize(size);
  return out;
}

class WireGarbageTest : public AttackedServerTest {
 protected:
  void SetUp() override { witness_ = std::make_unique<Witness>(server()); }
  void TearDown() override {
    witness_.reset();
    AttackedServerTest::TearDown();
  }

  // gRPC's own status, from before any code of ours.
  grpc::Status Send(const std::string& method, const std::string& message) {
    return Checked(CallAny(channel_ = server().NewChannel(), method, {}, message));
  }

  // On a connection that says all this and then nothing more; what came until the server
  // closed it.
  std::string Say(const std::string& bytes) {
    const RawConnection connection(server().port());
    EXPECT_TRUE(connection.connected());
    connection.Send(bytes);
    connection.EndSending();
    return connection.ReadToEnd();
  }

  // On a connection that stays open; what came until a stream or the connection
  // had ended.
  std::string Ask(const std::string& bytes) {
    const RawConnection connection(server().port());
    EXPECT_TRUE(connection.connected());
    connection.Send(bytes);
    std::string answer, some;
    do {
      some = connection.ReadSome();
      answer += some;
    } while (!some.empty() && !EndsAStream(answer));
    return answer;
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Witness> witness_;
};

TEST_F(WireGarbageTest, MessagesThatDoNotParseAreRefusedOnEveryMethod) {
  const std::string bad[] = {
      std::string(11, '\xff'),  // a tag of more bytes than a tag has
      std::string("\x0a\x05"
                  "ab",
                  4),                              // a string that ends too early
      std::string("\x0a\xff\xff\xff\xff\x0f", 6),  // one of 4 GiB
      std::string("\x0f", 1),                      // a type of field that there is not
      std::string("\x00\x00", 2),                  // a field of number 0
      std::string("\x0b\x0b\x0b", 3),              // groups that never end
      std::string("\x08", 1),                      // a number that is not there
  };
  for (const std::string& method : AllMethods()) {
    for (const std::string& message : bad) {
      SCOPED_TRACE(absl::StrCat(method, " ", testing::PrintToString(message)));
      EXPECT_THAT(Send(method, message).error_code(),
                  AnyOf(StatusCode::INTERNAL, StatusCode::UNIMPLEMENTED,
                        // A stream of messages ends there.
                        method.ends_with("ImportSession") ? StatusCode::DATA_LOSS
                                                          : StatusCode::INTERNAL));
    }
  }
  witness_->Finish();
  ExpectEnds({{"cancelled", 1}});
}

// Each string of each message, nested ones included: by the descriptors.
void AddStringFields(const google::protobuf::Descriptor* message,
                     const std::string& prefix, const std::string& text,
                     std::vector<std::string>& out) {
  const auto delimited = [](int number, const std::string& value) {
    std::string bytes;
    bytes += static_cast<char>(number << 3 | 2);  // all numbers here are below 16
    bytes += static_cast<char>(value.size());
    return bytes + value;
  };
  for (int i = 0; i < message->field_count(); ++i) {
    const auto* field = message->field(i);
    if (field->number() >= 16) continue;
    if (field->type() == google::protobuf::FieldDescriptor::TYPE_STRING) {
      out.push_back(prefix + delimited(field->number(), text));
    } else if (field->message_type() != nullptr && !field->is_map()) {
      std::vector<std::string> inner;
      AddStringFields(field->message_type(), "", text, inner);
      for (const std::string& bytes : inner) {
        out.push_back(prefix + delimited(field->number(), bytes));
      }
    }
  }
}

TEST_F(WireGarbageTest, TextThatIsNotUtf8IsRefusedInEveryField) {
  int fields = 0;
  for (const std::string& method : AllMethods()) {
    std::string name = method.substr(1);
    name[name.find('/')] = '.';
    const auto* descriptor =
        google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(name);
    ASSERT_NE(descriptor, nullptr) << name;
    for (const char* text :
         {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "\xe6\xb0"}) {
      std::vector<std::string> messages;
      AddStringFields(descriptor->input_type(), "", text, messages);
      for (const std::string& message : messages) {
        SCOPED_TRACE(absl::StrCat(method, " ", testing::PrintToString(message)));
        EXPECT_THAT(Send(method, message).error_code(),
                    AnyOf(StatusCode::INTERNAL, StatusCode::UNIMPLEMENTED));
        ++fields;
      }
    }
  }
  // text, session, stop and resume.session_id of Generate, two of Score, one of each
  // method that names a session, and so on.
  EXPECT_GE(fields, 6 * 13);
  witness_->Finish();
  ExpectEnds({{"cancelled", 1}});
}

// Messages of ours with a few bytes changed. Some are still good, and then they are
// served: what counts is that each has a status and nothing is left.
TEST_F(WireGarbageTest, ChangedMessagesDoNoHarm) {
  std::mt19937 random(1);
  v1::GenerateRequest request = TextRequest("some text", 20);
  request.mutable_sampling()->set_temperature(0.5f);
  request.mutable_sampling()->add_stop("stop");
  request.mutable_sampling()->add_stop_token_ids(7);
  request.mutable_sampling()->set_n(2);
  (*request.mutable_sampling()->mutable_logit_bias())[3] = 1.5f;
  const std::string good = request.SerializeAsString();
  channel_ = server().NewChannel();
  int served = 0;
  for (int i = 0; i < 400; ++i) {
    std::string message = good;
    for (auto changes = 1 + random() % 3; changes > 0; --changes) {
      message[random() % message.size()] = static_cast<char>(random());
    }
    if (i % 4 == 0) message.resize(random() % message.size());
    served += Checked(CallAny(channel_, kGenerate, {}, message)).ok();
  }
  EXPECT_GT(served, 20);
  EXPECT_LT(served, 380);
}

TEST_F(WireGarbageTest, OversizedMessagesAreRefused) {
  v1::TokenizeRequest request;
  request.set_text(std::string(33 << 20, 'x'));
  const std::string message = request.SerializeAsString();
  for (const char* method :
       {kTokenize, kGenerate, "/goldfinch.v1.SessionService/CreateSession"}) {
    const grpc::Status status = Send(method, message);
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_FALSE(CarriesRetryInfo(status)) << "it will not be smaller the next time";
  }
  v1::ImportSessionRequest import;
  import.set_chunk(std::string(33 << 20, 'x'));
  EXPECT_FALSE(
      Send("/goldfinch.v1.SessionService/ImportSession", import.SerializeAsString())
          .ok());
}

TEST_F(WireGarbageTest, WhatIsNoMethodIsUnimplemented) {
  for (const char* method :
       {"/goldfinch.v1.GenerationService/Sing", "/goldfinch.v1.Nothing/Generate",
        "/goldfinch.v2.GenerationService/Generate", "/", "//", "/Generate",
        "/goldfinch.v1.GenerationService/Generate/", "/../../etc/passwd"}) {
    EXPECT_EQ(CallAny(server().NewChannel(), method).error_code(),
              StatusCode::UNIMPLEMENTED)
        << method;
  }
}

TEST_F(WireGarbageTest, MessagesWhosePrefixLiesAreRefused) {
  v1::TokenizeRequest request;
  request.set_text("text");
  const std::string message = request.SerializeAsString();
  const std::string headers =
      Frame(FrameType::kHeaders, kEndHeaders, 1, HeaderBlock(CallHeaders(kTokenize)));
  const auto data = [](const std::string& bytes) {
    return Frame(FrameType::kData, kEndStream, 1, bytes);
  };
  // No answer of the method: that would be a message of token ids.
  for (const std::string& bytes : {
           std::string("\0\0\0\0\x64", 5) + message,        // 100 bytes, it says
           std::string("\0\xff\xff\xff\xff", 5) + message,  // 4 GiB
           std::string("\0\0", 2),                          // not even a prefix
           std::string(),
       }) {
    SCOPED_TRACE(testing::PrintToString(bytes));
    EXPECT_THAT(FrameTypesIn(Ask(Preface() + headers + data(bytes))),
                testing::Not(testing::Contains(FrameType::kData)));
  }
  // Flags that lie about compression are gRPC's to judge: it may end the call, take the
  // bytes as they are, or as an empty message. Each has the answer it has anyway.
  const std::string none = Ask(Preface() + CallFrames(1, kTokenize, ""));
  const std::string good = Ask(Preface() + CallFrames(1, kTokenize, message));
  EXPECT_THAT(FrameTypesIn(good), testing::Contains(FrameType::kData));
  for (const std::string& prefix : {
           std::string("\x01\0\0\0\x06", 5),  // compressed, by nothing
           std::string("\x02\0\0\0\x06", 5),  // a flag that there is not
       }) {
    SCOPED_TRACE(testing::PrintToString(prefix));
    const std::string answer = Ask(Preface() + headers + data(prefix + message));
    EXPECT_THAT(DataIn(answer), AnyOf("", DataIn(good), DataIn(none)));
  }
}

// A thousand bytes for each of its own, before anybody is asked for a key.
TEST_F(WireGarbageTest, CompressedMessagesAreRefusedAndNotInflated) {
  constexpr std::size_t kInflated = 56 << 20;
  const std::string bomb = Compressed(std::string(kInflated, '\0'));
  ASSERT_LT(bomb.size(), 60000u) << "more than a stream takes at once";
  ASSERT_TRUE(ForgetPeakMemory());
  const std::int64_t before = PeakMemory();
  RawHeaders headers = CallHeaders(kTokenize);
  headers.emplace_back("grpc-encoding", "deflate");
  std::string message = MessageFrames(1, bomb, true);
  message[kFrameHeadBytes] = 1;  // it is compressed
  const std::string answer =
      Ask(Preface() + Frame(FrameType::kHeaders, kEndHeaders, 1, HeaderBlock(headers)) +
          message);
  EXPECT_THAT(FrameTypesIn(answer), testing::Not(testing::Contains(FrameType::kData)));
  EXPECT_LT(PeakMemory() - before, static_cast<std::int64_t>(kInflated / 4));

  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::TokenizeRequest request;
  request.set_text(std::string(100000, 'x'));
  v1::TokenizeResponse response;
  const grpc::Status status = server().stub().Tokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("gzip"));
}

// Two bytes for some sixty of its own, likewise: as often as they fit into a message, on
// every method, in fields that it does not have and in those that it has.
TEST_F(WireGarbageTest, MessagesOfManyFieldsAreRefusedAndNotParsed) {
  constexpr std::size_t kBytes = 8 << 20;
  const std::string fields[] = {
      std::string("\x0a\x00", 2),          // 1: a string, a list or a message of most
      std::string("\x7a\x00", 2),          // 15: unknown to most
      std::string("\x78\x00", 2),          // likewise, as a number
      std::string("\xf2\x7f\x00", 3),      // 2046: unknown to all
      std::string("\x2a\x02\x5a\x00", 4),  // 5.11: of Generate, a stop string
      std::string("\x2a\x02\x7a\x00", 4),  // 5.15: a logit_bias
  };
  std::vector<std::string> methods = AllMethods();
  methods.push_back(kReflection);
  for (const std::string& method : methods) {
    // A stream of messages ends there.
    const StatusCode code = method == kReflection ? StatusCode::OK
                            : method.ends_with("ImportSession")
                                ? StatusCode::DATA_LOSS
                                : StatusCode::UNIMPLEMENTED;
    for (const std::string& field : fields) {
      SCOPED_TRACE(absl::StrCat(method, " ", testing::PrintToString(field)));
      std::string message;
      message.reserve(kBytes);
      while (message.size() + field.size() <= kBytes) message += field;
      ASSERT_TRUE(ForgetPeakMemory());
      const std::int64_t before = PeakMemory();
      EXPECT_EQ(Send(method, message).error_code(), code);
      // The client's copies and the library's; parsed it takes some 250 MB.
      EXPECT_LT(PeakMemory() - before, static_cast<std::int64_t>(8 * kBytes));
    }
  }
  witness_->Finish();
  ExpectEnds({{"cancelled", 1}});
}

TEST_F(WireGarbageTest, MessagesOfMethodsThatNameASessionAreSmall) {
  v1::GetSessionRequest request;
  request.set_session_id(std::string(120 << 10, '0'));
  const char* method = "/goldfinch.v1.SessionService/GetSession";
  EXPECT_EQ(Send(method, request.SerializeAsString()).error_code(),
            StatusCode::INVALID_ARGUMENT);
  request.set_session_id(std::string(128 << 10, '0'));
  EXPECT_EQ(Send(method, request.SerializeAsString()).error_code(),
            StatusCode::UNIMPLEMENTED);
}

// The bound is beyond what any call needs, and how other clients write does not reach it.
TEST_F(WireGarbageTest, TheLargestGoodMessagesAreServed) {
  v1::GenerateRequest request = TextRequest("", 1);
  for (int i = 0; i < 1000; ++i) {
    (*request.mutable_sampling()->mutable_logit_bias())[i % kTestVocabularySize] = 1;
  }
  for (int i = 0; i < 16; ++i) {
    request.mutable_sampling()->add_stop(std::string(256, static_cast<char>('a' + i)));
  }
  request.mutable_sampling()->set_n(16);
  for (int i = 0; i < 20000; ++i) request.mutable_tokens()->add_ids(i % 1000);
  const std::string packed = request.SerializeAsString();
  channel_ = server().NewChannel();
  EXPECT_TRUE(Checked(CallAny(channel_, kGenerate, {}, packed)).ok());

  // Ids that are not packed, stop tokens too: a field each.
  const auto delimited = [](char tag, const std::string& value) {
    std::string bytes(1, tag);
    for (std::size_t size = value.size(); true; size >>= 7) {
      bytes += static_cast<char>((size & 127) | (size > 127 ? 128 : 0));
      if (size <= 127) return bytes + value;
    }
  };
  std::string ids, stops;
  for (int i = 0; i < 20000; ++i) ids += {'\x08', static_cast<char>(i % 100)};
  for (int i = 0; i < 64; ++i) stops += {'\x60', static_cast<char>(i)};
  EXPECT_TRUE(Checked(CallAny(channel_, kGenerate, {},
                              delimited('\x12', ids) + delimited('\x2a', stops)))
                  .ok());

  // What a client of a later version says is left out, as long as it is not absurd.
  std::string later = v1::TokenizeRequest().SerializeAsString();
  for (int i = 0; i < 4096; ++i) later += std::string("\x7a\x01x", 3);
  EXPECT_TRUE(Checked(CallAny(channel_, kTokenize, {}, later)).ok());
  later += std::string("\x7a\x01x", 3);
  EXPECT_EQ(Checked(CallAny(channel_, kTokenize, {}, later)).error_code(),
            StatusCode::UNIMPLEMENTED);
}

TEST_F(WireGarbageTest, HeadersThatAreNoneAreRefused) {
  const auto call = [&](const RawHeaders& headers) {
    return Say(Preface() +
               Frame(FrameType::kHeaders, kEndHeaders, 1, HeaderBlock(headers)) +
               MessageFrames(1, "", true));
  };
  RawHeaders headers = CallHeaders(kTokenize);
  headers[0].second = "GET";
  call(headers);
  headers = CallHeaders(kTokenize);
  headers.erase(headers.begin() + 2);  // no path
  call(headers);
  headers = CallHeaders(kTokenize);
  headers.emplace_back(":path", kGenerate);  // two
  call(headers);
  headers = CallHeaders(kTokenize);
  headers[4].second = "text/html";
  call(headers);
  headers = CallHeaders(kTokenize);
  headers.emplace_back("Upper Case\r\n", std::string("\r\n\0", 3));
  call(headers);
  headers = CallHeaders(kTokenize);
  headers.emplace_back("grpc-timeout", "99999999999999999999H");
  call(headers);
  headers.back().second = "-1S";
  call(headers);
  headers = CallHeaders(kTokenize);
  headers.emplace_back("grpc-encoding", "snappy");
  call(headers);
  call({});
  std::mt19937 random(2);
  for (int i = 0; i < 50; ++i) {
    Say(Preface() + Frame(FrameType::kHeaders, kEndHeaders | kEndStream, 1,
                          Nonsense(random, 1 + random() % 200)));
  }
}

TEST_F(WireGarbageTest, FramesThatBreakTheRulesDoNoHarm) {
  std::mt19937 random(3);
  const std::string block = HeaderBlock(CallHeaders(kTokenize));
  std::string many_resets = Preface(), many_settings = Preface(), endless = Preface();
  for (std::uint32_t stream = 1; stream < 4000; stream += 2) {
    many_resets += Frame(FrameType::kHeaders, kEndHeaders, stream, block) +
                   Frame(FrameType::kReset, 0, stream, std::string(4, '\0'));
  }
  for (int i = 0; i < 2000; ++i) {
    many_settings += Frame(FrameType::kSettings, 0, 0, "");
  }
  endless += Frame(FrameType::kHeaders, 0, 1, block);
  for (int i = 0; i < 1000; ++i) {
    endless += Frame(FrameType::kContinuation, 0, 1, HeaderBlock({{"x", "y"}}));
  }
  for (const std::string& bytes : {
           many_resets,
           many_settings,
           endless,
           Preface() + Frame(FrameType::kData, 0, 1, "data without headers"),
           Preface() + Frame(FrameType::kData, 0, 0, "data of the connection"),
           Preface() + Frame(FrameType::kHeaders, kEndHeaders, 2, block),  // even
           Preface() + Frame(FrameType::kHeaders, kEndHeaders, 0, block),
           Preface() + Frame(FrameType::kPing, 0, 0, "short"),
           Preface() + Frame(FrameType::kSettings, 0, 0, "odd"),
           Preface() + Frame(FrameType::kSettings, 0, 0,
                             std::string("\0\x04\xff\xff\xff\xff", 6)),  // a window
           Preface() + Frame(FrameType::kWindowUpdate, 0, 0, std::string(4, '\0')),
           Preface() + Frame(FrameType::kWindowUpdate, 0, 0, "\x7f\xff\xff\xff"),
           Preface() + Frame(static_cast<FrameType>(200), 0xff, 1, "what?"),
           Preface() + std::string(3, '\xff') + std::string(6, '\0'),  // 16 MiB, it says
           Preface() + CallFrames(1, kTokenize, "") + CallFrames(1, kTokenize, ""),
           Preface() + CallFrames(5, kTokenize, "") + CallFrames(3, kTokenize, ""),
       }) {
    Say(bytes);
  }
  for (int i = 0; i < 100; ++i) {
    Say(Preface() + Frame(static_cast<FrameType>(random() % 10),
                          static_cast<std::uint8_t>(random()), random() % 4,
                          Nonsense(random, random() % 100)));
  }
}

TEST_F(WireGarbageTest, WhatIsNoHttp2IsClosed) {
  std::mt19937 random(4);
  std::vector<std::string> sayings = {
      "",
      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "POST /goldfinch.v1.GenerationService/Generate HTTP/1.1\r\n"
      "Host: localhost\r\nContent-Length: 1000000\r\n\r\nxx",
      "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
      std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11),  // ClientHello
      std::string(100000, '\0'),
      std::string(100000, '\xff'),
      "\r\n\r\n\r\n",
      "SSH-2.0-OpenSSH_9.2\r\n",
  };
  for (std::size_t size = 0; size < Preface().size(); ++size) {
    sayings.push_back(Preface().substr(0, size));
    sayings.push_back(Preface().substr(0, size) + Nonsense(random, 50));
  }
  for (const std::string& saying : sayings) {
    const std::string answer = Say(saying);
    // That the server closes is what ends Say; it says no more than what HTTP/2 begins
    // and ends with.
    EXPECT_LT(answer.size(), 200u);
    ExpectTellsNothing(answer);
  }
}

// Who connects and says nothing, or half of it, keeps a connection for a while and
// nothing else; it is closed in time (connection_limits.cc), which is longer than a test.
TEST_F(WireGarbageTest, HalfOpenConnectionsHoldNothingUp) {
  std::vector<std::unique_ptr<RawConnection>> connections;
  for (std::size_t i = 0; i < 200; ++i) {
    connections.push_back(std::make_unique<RawConnection>(server().port()));
    ASSERT_TRUE(connections.back()->connected());
    connections.back()->Send(
        (Preface() + CallFrames(1, kGenerate, "x", false)).substr(0, i));
  }
  witness_->ExpectGoesOn();
  EXPECT_TRUE(IsServing(server().NewChannel()));
  for (std::size_t i = 0; i < connections.size(); i += 2) connections[i]->Reset();
  witness_->ExpectGoesOn();
}

}  // namespace
}  // namespace goldfinch
