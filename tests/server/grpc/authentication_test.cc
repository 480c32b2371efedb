// Who may call what: keys on every method, tenants apart from each other, and what needs
// no key.
#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/fakes/memory_store.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

constexpr char kNoKey[] = "a valid key is needed (authorization: Bearer KEY)";
constexpr char kHealth[] = "/grpc.health.v1.Health/Check";
constexpr char kReflection[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

// A server with the tenants a (key "key-a") and b.
class AuthenticationTest : public testing::Test {
 protected:
  TestServerOptions WithTenants() {
    TestServerOptions options;
    options.tenants = tenants_.get();
    options.store = &store_;
    options.engine.num_pages = 100000;
    return options;
  }

  // A call of the generated stub with the key of `tenant`.
  struct As {
    explicit As(const std::string& tenant) {
      context.AddMetadata("authorization", "Bearer key-" + tenant);
    }
    grpc::ClientContext* operator&() { return &context; }
    grpc::ClientContext context;
  };

  std::string NewSession(const std::string& tenant, const std::string& text) {
    As as(tenant);
    v1::CreateSessionRequest request;
    request.set_text(text);
    v1::CreateSessionResponse response;
    const auto status = server_.sessions().CreateSession(&as, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.session().id();
  }

  void ExpectUnauthenticated(const Headers& headers) {
    const auto channel = server_.NewChannel();
    for (const std::string& method : AllMethods()) {
      SCOPED_TRACE(method);
      const grpc::Status status = CallAny(channel, method, headers);
      EXPECT_EQ(status.error_code(), StatusCode::UNAUTHENTICATED);
      EXPECT_EQ(status.error_message(), kNoKey);
      EXPECT_EQ(status.error_details(), "");
    }
  }

  const TenantFile file_{TenantEntry("a", "key-a") + "," + TenantEntry("b", "key-b")};
  const std::unique_ptr<TenantDirectory> tenants_ =
      TenantDirectory::Load(file_.path()).value();
  const SteadyClock clock_;
  MemoryMedium medium_{clock_};
  MemoryStore store_{medium_, "one", std::chrono::seconds(3600)};
  TestServer server_{WithTenants()};
};

TEST_F(AuthenticationTest, TheContractHasAllItsMethodsHere) {
  EXPECT_THAT(AllMethods(), Contains("/goldfinch.v1.GenerationService/Generate"));
  EXPECT_THAT(AllMethods(), Contains("/goldfinch.v1.SessionService/ImportSession"));
  EXPECT_THAT(AllMethods(), SizeIs(testing::Ge(13u)));
}

TEST_F(AuthenticationTest, NoMethodIsOpenToCallersWithoutAGoodKey) {
  ExpectUnauthenticated({});
  for (const char* header : {"key-a", "Bearer ", "Bearer", "Bearer key-c", "Basic key-a",
                             "Bearer key-a key-a", "Bearer  key-a"}) {
    SCOPED_TRACE(header);
    ExpectUnauthenticated({{"authorization", header}});
  }
  ExpectUnauthenticated(WithKey(std::string(1000, 'k')));
  ExpectUnauthenticated(WithKey(HashOfKey("key-a")));
  ExpectUnauthenticated({{"x-authorization", "Bearer key-a"}});
  // Two headers, even good ones.
  ExpectUnauthenticated(
      {{"authorization", "Bearer key-a"}, {"authorization", "Bearer key-a"}});
  ExpectUnauthenticated(
      {{"authorization", "Bearer key-a"}, {"authorization", "Bearer x"}});
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(AuthenticationTest, EveryMethodIsOpenToATenant) {
  const auto channel = server_.NewChannel();
  for (const std::string& method : AllMethods()) {
    EXPECT_NE(CallAny(channel, method, WithKey("key-a")).error_code(),
              StatusCode::UNAUTHENTICATED)
        << method;
  }
}

TEST_F(AuthenticationTest, RefusalsAreCounted) {
  const double before =
      server_.Metric("goldfinch_requests_refused_total{code=\"UNAUTHENTICATED\"}");
  ExpectUnauthenticated({});
  EXPECT_EQ(server_.Metric("goldfinch_requests_refused_total{code=\"UNAUTHENTICATED\"}"),
            before + static_cast<double>(AllMethods().size()));
}

TEST_F(AuthenticationTest, EveryMethodIsCountedWhateverBecomesOfTheCall) {
  const auto channel = server_.NewChannel();
  for (const std::string& method : AllMethods()) {
    const std::string series = absl::StrCat("goldfinch_calls_total{method=\"",
                                            method.substr(method.rfind('/') + 1), "\"}");
    const double before = server_.Metric(series);
    CallAny(channel, method);
    CallAny(channel, method, WithKey("key-a"));
    EXPECT_EQ(server_.Metric(series), before + 2) << method;
  }
  EXPECT_TRUE(Eventually([&] { return server_.Metric("goldfinch_calls_open") == 0; }));
}

TEST_F(AuthenticationTest, AKeyIsLookedAtBeforeTheServersState) {
  server_.server().BeginDrain();
  ExpectUnauthenticated({});
}

TEST_F(AuthenticationTest, HealthAndReflectionNeedNoKey) {
  const auto channel = server_.NewChannel();
  EXPECT_TRUE(CallAny(channel, kHealth).ok());
  EXPECT_TRUE(CallAny(channel, kHealth, WithKey("wrong")).ok());
  EXPECT_TRUE(CallAny(channel, kReflection).ok());
}

TEST_F(AuthenticationTest, ReflectionCanBeOff) {
  TestServerOptions options = WithTenants();
  options.store = nullptr;
  options.reflection = false;
  TestServer silent(options);
  EXPECT_EQ(CallAny(silent.NewChannel(), kReflection).error_code(),
            StatusCode::UNIMPLEMENTED);
  EXPECT_TRUE(CallAny(silent.NewChannel(), kHealth).ok());
}

TEST_F(AuthenticationTest, AnImportWithoutAKeyIsRefusedBeforeItIsRead) {
  grpc::ClientContext context;
  v1::ImportSessionResponse response;
  const auto writer = server_.sessions().ImportSession(&context, &response);
  v1::ImportSessionRequest request;
  request.set_chunk(std::string(1 << 20, 'x'));
  // More than all windows and buffers on the way hold.
  for (int i = 0; i < 1000 && writer->Write(request); ++i) {
  }
  writer->WritesDone();
  EXPECT_EQ(writer->Finish().error_code(), StatusCode::UNAUTHENTICATED);
}

// At the server that holds it, at another one on the same store, and wherever it is.
TEST_F(AuthenticationTest, AForeignSessionIsNotFoundLikeAnUnknownOne) {
  MemoryStore other_store(medium_, "two", std::chrono::seconds(3600));
  TestServerOptions options = WithTenants();
  options.store = &other_store;
  TestServer other(options);
  const std::string id = NewSession("a", "mine");
  const std::string unknown(id.size(), '0');
  // A request about a session has its id in the first field; Generate in a field of its
  // own.
  v1::GetSessionRequest request;
  v1::GenerateRequest turn = TextRequest("x", 1);
  const auto answers = [&](TestServer& server, const std::string& session) {
    const auto channel = server.NewChannel();
    std::vector<std::string> messages;
    request.set_session_id(session);
    turn.set_session(session);
    for (const char* method :
         {"GetSession", "ForkSession", "ParkSession", "ExportSession", "DeleteSession"}) {
      const grpc::Status status =
          CallAny(channel, absl::StrCat("/goldfinch.v1.SessionService/", method),
                  WithKey("key-b"), request.SerializeAsString());
      EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND) << method;
      messages.push_back(absl::StrReplaceAll(status.error_message(), {{session, "ID"}}));
    }
    As b("b");
    const grpc::Status status = Generate(server.stub(), turn, &b).status;
    EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
    messages.push_back(absl::StrReplaceAll(status.error_message(), {{session, "ID"}}));
    EXPECT_EQ(status.error_details(), "");
    return messages;
  };
  for (const char* place : {"held", "parked", "loaded again"}) {
    SCOPED_TRACE(place);
    for (TestServer* server : {&server_, &other}) {
      EXPECT_EQ(answers(*server, id), answers(*server, unknown));
    }
    // And it is still its owner's.
    As a("a");
    request.set_session_id(id);
    turn.set_session(id);
    if (std::string(place) == "held") {
      EXPECT_TRUE(CallAny(server_.NewChannel(),
                          "/goldfinch.v1.SessionService/ParkSession", WithKey("key-a"),
                          request.SerializeAsString())
                      .ok());
    } else {
      EXPECT_TRUE(Generate(server_.stub(), turn, &a).status.ok());
    }
  }
}

TEST_F(AuthenticationTest, AParkBeyondTheTenantsShareOfTheStoreIsResourceExhausted) {
  const std::string id = NewSession("a", "mine");
  const auto park = [&] {
    v1::GetSessionRequest request;
    request.set_session_id(id);
    return CallAny(server_.NewChannel(), "/goldfinch.v1.SessionService/ParkSession",
                   WithKey("key-a"), request.SerializeAsString());
  };
  file_.Write(TenantEntry("a", "key-a", ", \"limits\": {\"max_parked_bytes\": 10}"));
  ASSERT_TRUE(server_.server().ReloadTenants().ok());
  const grpc::Status refused = park();
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("the limit is 10"));
  EXPECT_THAT(refused.error_message(), Not(HasSubstr(id)));
  EXPECT_EQ(refused.error_details(), "") << "no RetryInfo: the tenant must make room";
  EXPECT_EQ(server_.Metric("goldfinch_session_events_total{event=\"over_quota\"}"), 1);
  file_.Write(TenantEntry("a", "key-a"));
  ASSERT_TRUE(server_.server().ReloadTenants().ok());
  EXPECT_TRUE(park().ok());
}

TEST_F(AuthenticationTest, WhatATenantsSessionsTakeIsTold) {
  NewSession("a", "mine");
  const auto host_bytes = [&](const std::string& tenant) {
    return server_.Metric("goldfinch_tenant_session_host_bytes{tenant=\"" + tenant +
                          "\"}");
  };
  EXPECT_TRUE(Eventually([&] { return host_bytes("a") > 0; }));
  EXPECT_EQ(host_bytes("b"), 0);
  EXPECT_EQ(host_bytes("other"), 0);
  EXPECT_EQ(server_.Metric("goldfinch_tenant_stored_bytes{tenant=\"a\"}"), 0);
}

TEST_F(AuthenticationTest, SessionsAreListedForTheirOwnerOnly) {
  const std::string id = NewSession("a", "mine");
  for (const char* tenant : {"a", "b"}) {
    As as(tenant);
    v1::ListSessionsResponse response;
    ASSERT_TRUE(server_.sessions().ListSessions(&as, {}, &response).ok());
    EXPECT_EQ(response.sessions_size(), std::string(tenant) == "a" ? 1 : 0);
  }
}

TEST_F(AuthenticationTest, ACallKeepsItsTenantThroughAReload) {
  As a("a");
  v1::GenerateRequest request = TextRequest("endless", 1000000);
  request.mutable_sampling()->set_ignore_eos(true);
  const auto reader = server_.stub().Generate(&a, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));

  file_.Write(TenantEntry("b", "key-b") + "," + TenantEntry("c", "key-c"));
  ASSERT_TRUE(server_.server().ReloadTenants().ok());
  const auto channel = server_.NewChannel();
  const std::string get_model = "/goldfinch.v1.GenerationService/GetModel";
  EXPECT_EQ(CallAny(channel, get_model, WithKey("key-a")).error_code(),
            StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(CallAny(channel, get_model, WithKey("key-b")).ok());
  EXPECT_TRUE(CallAny(channel, get_model, WithKey("key-c")).ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(reader->Read(&message));

  file_.Write("nonsense");
  EXPECT_FALSE(server_.server().ReloadTenants().ok());
  EXPECT_TRUE(CallAny(channel, get_model, WithKey("key-c")).ok());
  ASSERT_TRUE(reader->Read(&message));
  a.context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(AuthenticationTest, TheTenantsLimitsGoWithEachRequest) {
  file_.Write(TenantEntry(
      "a", "key-a", ", \"limits\": {\"max_prompt_tokens\": 3, \"max_priority\": 1}"));
  ASSERT_TRUE(server_.server().ReloadTenants().ok());
  const std::string long_text = "far more than three tokens";
  {
    As a("a");
    EXPECT_EQ(Generate(server_.stub(), TextRequest(long_text, 1), &a).status.error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
  {
    As a("a");
    EXPECT_TRUE(Generate(server_.stub(), TextRequest("x", 1), &a).status.ok());
  }
  {
    As a("a");
    v1::GenerateRequest request = TextRequest("x", 1);
    request.set_priority(2);
    EXPECT_EQ(Generate(server_.stub(), request, &a).status.error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
  {
    As a("a");
    v1::ScoreRequest request;
    request.set_context_text(long_text);
    request.set_continuation_text("y");
    v1::ScoreResponse response;
    EXPECT_EQ(server_.stub().Score(&a, request, &response).error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
  {
    As a("a");
    v1::CreateSessionRequest request;
    request.set_text(long_text);
    v1::CreateSessionResponse response;
    EXPECT_EQ(server_.sessions().CreateSession(&a, request, &response).error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
}

TEST(AnonymousTest, WithoutATenantsFileNoKeyIsAskedFor) {
  TestServer server;
  const auto channel = server.NewChannel();
  const std::string get_model = "/goldfinch.v1.GenerationService/GetModel";
  EXPECT_TRUE(CallAny(channel, get_model).ok());
  EXPECT_TRUE(CallAny(channel, get_model, WithKey("any")).ok());
  EXPECT_FALSE(server.server().ReloadTenants().ok());
}

}  // namespace
}  // namespace goldfinch
