// Every bad input of SessionService: its exact status through a real channel. What is not
// the caller's does not exist, what is damaged replaces nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "sessions/checksum.h"
#include "sessions/snapshot.h"
#include "tests/hostile/attacked_server.h"
#include "tests/hostile/checked_status.h"
#include "tests/hostile/peak_memory.h"
#include "tests/hostile/raw_call.h"
#include "tests/hostile/shared_server.h"
#include "tests/hostile/step_gate.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/session_client.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr char kService[] = "/goldfinch.v1.SessionService/";
constexpr char kGenerate[] = "/goldfinch.v1.GenerationService/Generate";
constexpr char kNoSessionId[] = "the session id must be 32 lowercase hexadecimal digits";
constexpr char kNotFound[] = "there is no such session";

// The calls that name a session: method and request.
std::vector<std::pair<std::string, std::string>> CallsOn(const std::string& id) {
  std::vector<std::pair<std::string, std::string>> calls;
  // Whichever method: the id is the first field.
  v1::GetSessionRequest request;
  request.set_session_id(id);
  for (const char* method :
       {"GetSession", "ForkSession", "ParkSession", "ExportSession", "DeleteSession"}) {
    calls.emplace_back(kService + std::string(method), request.SerializeAsString());
  }
  calls.emplace_back(kGenerate, TurnRequest(id, "x", 1).SerializeAsString());
  calls.emplace_back(kGenerate, ResumeRequest(id, 0).SerializeAsString());
  return calls;
}

// What `id` gets, everywhere.
void ExpectEverywhere(const std::string& id, StatusCode code, const char* message,
                      const std::shared_ptr<grpc::Channel>& channel,
                      const Headers& headers = {}) {
  for (const auto& [method, request] : CallsOn(id)) {
    SCOPED_TRACE(method);
    const grpc::Status status = Checked(CallAny(channel, method, headers, request));
    EXPECT_EQ(status.error_code(), code);
    EXPECT_EQ(status.error_message(), message);
    EXPECT_EQ(status.error_details(), "");
  }
}

TEST(BadSessionIdTest, MalformedOnesAreInvalidEverywhere) {
  const auto channel = SharedServer().NewChannel();
  const std::string digits(32, '0');
  for (const std::string& id :
       {std::string("abc"), digits + "0", digits.substr(1), std::string(32, 'A'),
        std::string(32, 'g'), digits.substr(1) + " ", digits.substr(1) + '\0',
        std::string("../../../../../../../etc/passwd\n"), std::string("*"),
        std::string(100 << 10, '0')}) {
    SCOPED_TRACE(id.substr(0, 40));
    ExpectEverywhere(id, StatusCode::INVALID_ARGUMENT, kNoSessionId, channel);
  }
  // An empty one is a session too, but in Generate's own field, where it is none.
  v1::GetSessionRequest empty;
  for (const char* method :
       {"GetSession", "ForkSession", "ParkSession", "ExportSession", "DeleteSession"}) {
    EXPECT_EQ(Checked(CallAny(channel, kService + std::string(method), {},
                              empty.SerializeAsString()))
                  .error_code(),
              StatusCode::INVALID_ARGUMENT)
        << method;
  }
  ExpectSharedServerUnharmed();
}

TEST(BadSessionIdTest, UnknownOnesAreNotFoundEverywhere) {
  ExpectEverywhere(std::string(32, '0'), StatusCode::NOT_FOUND, kNotFound,
                   SharedServer().NewChannel());
  ExpectSharedServerUnharmed();
}

struct BadCall {
  const char* name;
  const char* method;
  std::string request;
  StatusCode code;
  const char* message;
};

template <typename Message>
std::string Bytes(const std::function<void(Message&)>& fill) {
  Message message;
  fill(message);
  return message.SerializeAsString();
}

std::string Create(const std::function<void(v1::CreateSessionRequest&)>& fill) {
  return Bytes<v1::CreateSessionRequest>(fill);
}
std::string Append(const std::function<void(v1::AppendToSessionRequest&)>& fill) {
  return Bytes<v1::AppendToSessionRequest>(fill);
}
std::string History(const std::function<void(v1::GetSessionHistoryRequest&)>& fill) {
  return Bytes<v1::GetSessionHistoryRequest>(fill);
}
std::string List(const std::function<void(v1::ListSessionsRequest&)>& fill) {
  return Bytes<v1::ListSessionsRequest>(fill);
}
std::string Import(const std::string& chunk) {
  return Bytes<v1::ImportSessionRequest>([&](auto& r) { r.set_chunk(chunk); });
}

TEST(BadSessionCallTest, EveryBadFieldHasItsStatus) {
  constexpr auto kInvalid = StatusCode::INVALID_ARGUMENT;
  const BadCall calls[] = {
      {"Token", "CreateSession", Create([](auto& r) { r.mutable_tokens()->add_ids(-1); }),
       kInvalid, "tokens[0] is -1; it must be in [0, 999]"},
      {"TokenBeyondVocabulary", "CreateSession",
       Create([](auto& r) { r.mutable_tokens()->add_ids(1000); }), kInvalid,
       "tokens[0] is 1000; it must be in [0, 999]"},
      {"TooLong", "CreateSession",
       Create([](auto& r) { r.set_text(std::string(4097, '.')); }), kInvalid,
       "4097 tokens; the limit is 4096"},
      {"Priority", "CreateSession", Create([](auto& r) { r.set_priority(101); }),
       kInvalid, "priority is 101; it must be in [-100, 100]"},
      {"NoText", "AppendToSession", Append([](auto&) {}), kInvalid,
       "input has 0 tokens; it must have at least 1"},
      {"EmptyText", "AppendToSession", Append([](auto& r) { r.set_text(""); }), kInvalid,
       "input has 0 tokens; it must have at least 1"},
      {"AppendedToken", "AppendToSession",
       Append([](auto& r) { r.mutable_tokens()->add_ids(1000); }), kInvalid,
       "tokens[0] is 1000; it must be in [0, 999]"},
      {"AppendedPriority", "AppendToSession", Append([](auto& r) {
         r.set_text("x");
         r.set_priority(-101);
       }),
       kInvalid, "priority is -101; it must be in [-100, 100]"},
      {"AppendedToNothing", "AppendToSession", Append([](auto& r) { r.set_text("x"); }),
       kInvalid, "session"},
      {"AppendedElsewhere", "AppendToSession", Append([](auto& r) {
         r.set_text("x");
         r.set_session_id("../../../../../../../etc/passwd");
       }),
       kInvalid, "session"},
      {"HistoryOfNothing", "GetSessionHistory", History([](auto&) {}), kInvalid,
       "session"},
      {"HistoryBefore", "GetSessionHistory",
       History([](auto& r) { r.set_first_token(-1); }), kInvalid,
       "first_token is -1; it must be at least 0"},
      {"HistoryPage", "GetSessionHistory",
       History([](auto& r) { r.set_page_size(65537); }), kInvalid,
       "page_size is 65537; it must be in [1, 65536], or 0"},
      {"HistoryPageNegative", "GetSessionHistory",
       History([](auto& r) { r.set_page_size(-1); }), kInvalid,
       "page_size is -1; it must be in [1, 65536], or 0"},
      {"PageSizeNegative", "ListSessions", List([](auto& r) { r.set_page_size(-1); }),
       kInvalid, "page_size is -1; it must be in [1, 1000], or 0"},
      {"PageSizeTooLarge", "ListSessions", List([](auto& r) { r.set_page_size(1001); }),
       kInvalid, "page_size is 1001; it must be in [1, 1000], or 0"},
      {"PageToken", "ListSessions",
       List([](auto& r) { r.set_page_token("../../../../../../../etc/passwd"); }),
       kInvalid, "page_token must be the next_page_token of another answer"},
      {"Nothing", "ImportSession", Import(""), StatusCode::DATA_LOSS, ""},
      {"NoSnapshot", "ImportSession", Import(std::string(1000, 'x')),
       StatusCode::DATA_LOSS, ""},
      {"MoreThanASession", "ImportSession", Import(std::string(24 << 20, 'x')),
       StatusCode::FAILED_PRECONDITION, "this server's limit"},
  };
  for (const BadCall& bad : calls) {
    SCOPED_TRACE(bad.name);
    const grpc::Status status =
        Checked(CallAny(SharedServer().NewChannel(), kService + std::string(bad.method),
                        {}, bad.request));
    EXPECT_EQ(status.error_code(), bad.code);
    EXPECT_THAT(status.error_message(), HasSubstr(bad.message));
    EXPECT_EQ(status.error_details(), "");
  }
  ExpectSharedServerUnharmed();
}

class SnapshotTest : public AttackedServerTest {
 protected:
  static absl::Status Import(TestServer& to, const std::string& snapshot) {
    const absl::Status status = ImportSession(to, snapshot).status();
    ExpectTellsNothing(std::string(status.message()));
    return status;
  }
  // The snapshot with something else in it, and sums that fit.
  static std::string Changed(const std::string& snapshot,
                             const std::function<void(Snapshot&)>& change) {
    Snapshot decoded = DecodeSnapshot(std::make_shared<const std::string>(snapshot),
                                      nullptr, SnapshotLimits())
                           .value();
    change(decoded);
    return EncodeSnapshot(decoded, nullptr).Join();
  }
  // The head of another format version, intact.
  static std::string OfVersion(std::string snapshot, char version) {
    constexpr std::size_t kVersionAt = 8, kHeadBytes = 16;
    snapshot[kVersionAt] = version;
    std::uint64_t sum = Checksum(std::string_view(snapshot).substr(0, kHeadBytes), {}, 0);
    for (std::size_t i = 0; i < sizeof(sum); ++i, sum >>= 8) {
      snapshot[kHeadBytes + i] = static_cast<char>(sum & 0xff);
    }
    return snapshot;
  }
};

TEST_F(SnapshotTest, OfAnotherModelFormatOrTenantIsAFailedPrecondition) {
  Witness witness(server());
  const std::string id = CreateSession(server(), "precious")->id();
  const std::string snapshot = *ExportSession(server(), id);
  ASSERT_EQ(OfVersion(snapshot, 1), snapshot);
  for (const std::string& other :
       {Changed(snapshot, [](Snapshot& s) { s.model_fingerprint = "fedcba9876543210"; }),
        Changed(snapshot, [](Snapshot& s) { s.tenant = "another-tenant"; }),
        OfVersion(snapshot, 2)}) {
    ASSERT_NE(other, snapshot);
    const absl::Status status = Import(server(), other);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
  EXPECT_EQ(*ExportSession(server(), id), snapshot);
  EXPECT_TRUE(DeleteSession(server(), id).ok());
  witness.Finish();
}

TEST_F(SnapshotTest, OfAGenerationWithoutEndIsTooLongToResume) {
  const std::string id = CreateSession(server())->id();
  ASSERT_TRUE(Generate(server().stub(), TurnRequest(id, "begun", 5)).status.ok());
  const std::string forged = Changed(*ExportSession(server(), id), [](Snapshot& s) {
    s.turn->max_tokens = std::numeric_limits<std::int64_t>::max();
    s.turn->end.reset();
  });
  const auto imported = ImportSession(server(), forged);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const grpc::Status status =
      Generate(server().stub(), ResumeRequest(imported->id(), 0)).status;
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("9223372036854775807"));
  EXPECT_TRUE(DeleteSession(server(), imported->id()).ok());
  EXPECT_TRUE(DeleteSession(server(), id).ok());
}

// A request for what it lacks, which is nothing, would never end.
TEST_F(SnapshotTest, OfAWholeGenerationWithoutEndIsDataLossToResume) {
  const std::string id = CreateSession(server())->id();
  v1::GenerateRequest turn = TurnRequest(id, "begun", 5);
  turn.mutable_sampling()->set_ignore_eos(true);
  ASSERT_TRUE(Generate(server().stub(), turn).status.ok());
  const std::string forged = Changed(*ExportSession(server(), id), [](Snapshot& s) {
    ASSERT_EQ(s.turn->num_generated, s.turn->max_tokens);
    s.turn->end.reset();
  });
  const auto imported = ImportSession(server(), forged);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const grpc::Status status =
      Checked(Generate(server().stub(), ResumeRequest(imported->id(), 0)).status);
  EXPECT_EQ(status.error_code(), StatusCode::DATA_LOSS);
  // What was said can be gone on from all the same.
  EXPECT_TRUE(Generate(server().stub(), TurnRequest(imported->id(), "x", 3)).status.ok());
  EXPECT_TRUE(DeleteSession(server(), imported->id()).ok());
  EXPECT_TRUE(DeleteSession(server(), id).ok());
}

// Of a generation no longer than a context may be, by calls of forty bytes whose answers
// nobody takes: each holds a few messages and not the whole of it as events, 136 bytes a
// token.
TEST_F(SnapshotTest, OfALongGenerationTakesItsMemoryOnceForAllWhoResumeIt) {
  constexpr std::int64_t kTokens = 500'000;
  constexpr int kCalls = 10;
  const std::string id = CreateSession(server())->id();
  ASSERT_TRUE(Generate(server().stub(), TurnRequest(id, "begun", 5)).status.ok());
  const std::string forged = Changed(*ExportSession(server(), id), [](Snapshot& s) {
    s.tokens.resize(s.tokens.size() + kTokens, s.tokens.back());
    s.turn->num_generated += kTokens;
    s.turn->max_tokens = s.turn->num_generated;
  });
  const auto imported = ImportSession(server(), forged);
  ASSERT_TRUE(imported.ok()) << imported.status();
  ASSERT_TRUE(ForgetPeakMemory());
  const std::int64_t before = PeakMemory();
  const std::string request = ResumeRequest(imported->id(), 1000).SerializeAsString();
  RawConnection connection(server().port());
  connection.Send(PrefaceWithoutWindow());
  std::string answers;
  for (std::uint32_t i = 0; i < kCalls; ++i) {
    connection.Send(
        CallFrames(2 * i + 1, "/goldfinch.v1.GenerationService/Generate", request));
    while (StreamsAnsweredIn(answers) <= static_cast<int>(i)) {
      const std::string some = connection.ReadSome();
      ASSERT_FALSE(some.empty());
      answers += some;
    }
  }
  EXPECT_EQ(StreamsEndedIn(answers), 0);
  EXPECT_LT(PeakMemory() - before, kTokens * kCalls * 10);
  connection.Reset();
  EXPECT_TRUE(DeleteSession(server(), imported->id()).ok());
  EXPECT_TRUE(DeleteSession(server(), id).ok());
}

TEST_F(SnapshotTest, ThatIsDamagedIsDataLossAndReplacesNothing) {
  Witness witness(server());
  const std::string id = CreateSession(server(), "precious")->id();
  Generate(server().stub(), TurnRequest(id, " and more", 5));
  const std::string snapshot = *ExportSession(server(), id);
  int damaged = 0;
  // A bit of every byte, one after another, and the snapshot cut at every place.
  for (std::size_t at = 0; at < snapshot.size(); ++at) {
    std::string flipped = snapshot;
    flipped[at] = static_cast<char>(flipped[at] ^ 1 << at % 8);
    for (const std::string& bytes : {flipped, snapshot.substr(0, at)}) {
      const absl::Status status = Import(server(), bytes);
      EXPECT_TRUE(absl::IsDataLoss(status)) << at << ": " << status;
      ++damaged;
    }
  }
  EXPECT_GT(damaged, 500);
  // What no server of ours writes, with sums that fit.
  for (const auto& change : std::vector<std::function<void(Snapshot&)>>{
           [](Snapshot& s) { s.tokens[0] = 1000; },
           [](Snapshot& s) { s.turn->num_generated = 1 << 20; },
       }) {
    const absl::Status status = Import(server(), Changed(snapshot, change));
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  }
  EXPECT_EQ(*ExportSession(server(), id), snapshot);
  grpc::ClientContext context;
  v1::ListSessionsResponse sessions;
  ASSERT_TRUE(server().sessions().ListSessions(&context, {}, &sessions).ok());
  EXPECT_EQ(sessions.sessions_size(), 1);
  EXPECT_TRUE(DeleteSession(server(), id).ok());
  witness.Finish();
}

TEST_F(SnapshotTest, ThatIsDamagedInTheStoreIsDataLossAndStaysThere) {
  TestServerOptions options = RoomyOptions();
  options.store = &store_;
  Start(options);
  const std::string id = CreateSession(server(), "text")->id();
  ASSERT_TRUE(ParkSession(server(), id).ok());
  const auto spoil = [](std::string& bytes) { bytes[bytes.size() / 2] ^= 1; };
  medium_.Spoil(id, spoil);
  for (const auto& request : {TurnRequest(id, "x", 3), ResumeRequest(id, 0)}) {
    const grpc::Status status = CheckedGenerate(server(), request).status;
    EXPECT_EQ(status.error_code(), StatusCode::DATA_LOSS) << status.error_message();
  }
  medium_.Spoil(id, spoil);
  EXPECT_TRUE(Generate(server().stub(), TurnRequest(id, "x", 3)).status.ok());
  EXPECT_TRUE(DeleteSession(server(), id).ok());
}

class BusySessionTest : public AttackedServerTest {};

TEST_F(BusySessionTest, ASecondCallIsAFailedPreconditionEverywhere) {
  TestServerOptions options = RoomyOptions();
  options.store = &store_;
  Start(options);
  StepGate gate(engine());
  const std::string id = CreateSession(server(), "text")->id();
  gate.HoldAtOnce();
  const auto turn = TurnRequest(id, "first", 10);
  auto running =
      std::async(std::launch::async, [&] { return CheckedGenerate(server(), turn); });
  ASSERT_TRUE(gate.WaitUntilHeld());
  for (const auto& [method, request] : CallsOn(id)) {
    if (method.ends_with("GetSession")) continue;  // looks, and does not touch
    SCOPED_TRACE(method);
    const grpc::Status status =
        Checked(CallAny(server().NewChannel(), method, {}, request));
    EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), HasSubstr("in use by another call"));
  }
  gate.Release();
  const GenerateOutput output = running.get();
  EXPECT_TRUE(output.status.ok());
  Conversation conversation;
  conversation.Expect(TextRequest("text", 0));
  EXPECT_EQ(output.candidates[0].tokens, conversation.Expect(turn));
  EXPECT_TRUE(DeleteSession(server(), id).ok());
}

// Alive and parked.
TEST_F(BusySessionTest, AForeignSessionIsNotFoundLikeAnUnknownOne) {
  const TenantFile file(TenantEntry("owner-tenant", "key-of-owner") + "," +
                        TenantEntry("thief-tenant", "key-of-thief"));
  const auto tenants = TenantDirectory::Load(file.path()).value();
  TestServerOptions options = RoomyOptions();
  options.tenants = tenants.get();
  options.store = &store_;
  key_ = "key-of-owner";
  Start(options);
  const auto channel = server().NewChannel();
  const auto as_owner = [&] {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("authorization", "Bearer key-of-owner");
    return context;
  };
  v1::CreateSessionRequest create;
  create.set_text("mine");
  v1::CreateSessionResponse created;
  ASSERT_TRUE(server().sessions().CreateSession(as_owner().get(), create, &created).ok());
  const std::string id = created.session().id();
  v1::ParkSessionRequest park;
  park.set_session_id(id);
  for (const bool parked : {false, true}) {
    if (parked) {
      v1::ParkSessionResponse response;
      ASSERT_TRUE(
          server().sessions().ParkSession(as_owner().get(), park, &response).ok());
    }
    SCOPED_TRACE(parked);
    for (const std::string& session : {id, std::string(32, '0')}) {
      ExpectEverywhere(session, StatusCode::NOT_FOUND, kNotFound, channel,
                       WithKey("key-of-thief"));
    }
  }
  EXPECT_TRUE(
      Generate(server().stub(), TurnRequest(id, "x", 3), as_owner().get()).status.ok());
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  v1::DeleteSessionResponse response;
  EXPECT_TRUE(
      server().sessions().DeleteSession(as_owner().get(), request, &response).ok());
  TearDown();  // before the tenants go
}

}  // namespace
}  // namespace goldfinch
