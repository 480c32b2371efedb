// The admin service: who may call it, and what it does to a server that is at work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "goldfinch/v1/admin_service.grpc.pb.h"
#include "server/log.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr char kAdminFlag[] = ", \"admin\": true";

// A server with the tenants root, who is an admin, and a.
class AdminTest : public testing::Test {
 protected:
  TestServerOptions Options() {
    TestServerOptions options;
    options.tenants = tenants_.get();
    options.admin = "127.0.0.1:0";
    options.engine.num_pages = kEndless;
    options.on_drain = [this] { drained_.set_value(); };
    return options;
  }

  // A call of the generated stub with a key.
  struct With {
    explicit With(const std::string& key) {
      context.AddMetadata("authorization", "Bearer " + key);
    }
    grpc::ClientContext* operator&() { return &context; }
    grpc::ClientContext context;
  };

  std::vector<v1::RequestInfo> List(const v1::ListRequestsRequest& request = {}) {
    With key("key-root");
    v1::ListRequestsResponse response;
    const grpc::Status status = admin_->ListRequests(&key, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    next_page_ = response.next_page_token();
    return {response.requests().begin(), response.requests().end()};
  }

  grpc::Status Cancel(std::uint64_t id) {
    With key("key-root");
    v1::CancelRequestRequest request;
    request.set_id(id);
    v1::CancelRequestResponse response;
    return admin_->CancelRequest(&key, request, &response);
  }

  grpc::Status Drain(bool hurry) {
    With key("key-root");
    v1::DrainRequest request;
    request.set_hurry(hurry);
    v1::DrainResponse response;
    return admin_->Drain(&key, request, &response);
  }

  // A call of the tenant a that does not end by itself.
  std::future<grpc::Status> StartEndless() {
    return std::async(std::launch::async, [this] {
      v1::GenerateRequest request = TextRequest("endless", kEndless / 2);
      request.mutable_sampling()->set_ignore_eos(true);
      With key("key-a");
      return Generate(server_.stub(), request, &key).status;
    });
  }

  static constexpr std::int64_t kEndless = 1000000;

  const TenantFile file_{TenantEntry("root", "key-root", kAdminFlag) + "," +
                         TenantEntry("a", "key-a")};
  const std::unique_ptr<TenantDirectory> tenants_ =
      TenantDirectory::Load(file_.path()).value();
  std::promise<void> drained_;
  TestServer server_{Options()};
  const std::unique_ptr<v1::AdminService::Stub> admin_ =
      v1::AdminService::NewStub(server_.NewAdminChannel());
  std::string next_page_;
};

TEST_F(AdminTest, NoMethodIsOpenToOthers) {
  const auto channel = server_.NewAdminChannel();
  EXPECT_THAT(AdminMethods(), SizeIs(5));
  for (const std::string& method : AdminMethods()) {
    SCOPED_TRACE(method);
    EXPECT_EQ(CallAny(channel, method).error_code(), StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(CallAny(channel, method, WithKey("wrong")).error_code(),
              StatusCode::UNAUTHENTICATED);
    const grpc::Status status = CallAny(channel, method, WithKey("key-a"));
    EXPECT_EQ(status.error_code(), StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(status.error_message(), "the key is not one of an admin");
  }
  // And nothing came of it.
  EXPECT_TRUE(server_.BecomesIdle());
  With key("key-a");
  EXPECT_TRUE(Generate(server_.stub(), TextRequest("x", 1), &key).status.ok());
}

TEST_F(AdminTest, TheTwoPortsHaveDifferentServices) {
  for (const std::string& method : AdminMethods()) {
    EXPECT_EQ(CallAny(server_.NewChannel(), method, WithKey("key-root")).error_code(),
              StatusCode::UNIMPLEMENTED);
  }
  for (const std::string& method : AllMethods()) {
    EXPECT_EQ(CallAny(server_.NewAdminChannel(), method, WithKey("key-root")).error_code(),
              StatusCode::UNIMPLEMENTED);
  }
}

TEST_F(AdminTest, RequestsAreListedAndCancelled) {
  EXPECT_THAT(List(), IsEmpty());
  std::vector<std::future<grpc::Status>> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(StartEndless());
  ASSERT_TRUE(Eventually([&] {
    const auto requests = List();
    return requests.size() == 3 && requests.back().generated_tokens() > 0;
  }));
  const std::vector<v1::RequestInfo> requests = List();
  const v1::RequestInfo& first = requests.front();
  EXPECT_EQ(first.tenant(), "a");
  EXPECT_EQ(first.kind(), v1::REQUEST_KIND_GENERATE);
  EXPECT_EQ(first.max_tokens(), kEndless / 2);
  EXPECT_EQ(first.prompt_tokens(), static_cast<std::int64_t>(Encode("endless").size()));
  EXPECT_EQ(first.read_prompt_tokens(), first.prompt_tokens());
  EXPECT_EQ(first.num_candidates(), 1);
  EXPECT_GT(first.age().seconds() + first.age().nanos(), 0);

  v1::ListRequestsRequest page;
  page.set_page_size(2);
  EXPECT_THAT(List(page), SizeIs(2));
  EXPECT_EQ(next_page_, absl::StrCat(requests[1].id()));
  page.set_page_token(next_page_);
  EXPECT_THAT(List(page), SizeIs(1));
  EXPECT_THAT(next_page_, IsEmpty());
  v1::ListRequestsRequest of_another;
  of_another.set_tenant("root");
  EXPECT_THAT(List(of_another), IsEmpty());

  for (const v1::RequestInfo& request : requests) {
    EXPECT_TRUE(Cancel(request.id()).ok());
    const grpc::Status again = Cancel(request.id());
    EXPECT_EQ(again.error_code(), StatusCode::NOT_FOUND);
    EXPECT_THAT(again.error_message(), HasSubstr(absl::StrCat(request.id())));
  }
  for (auto& call : calls) {
    const grpc::Status status = call.get();
    EXPECT_EQ(status.error_code(), StatusCode::CANCELLED);
    EXPECT_EQ(status.error_message(), "the request was cancelled by the server's operator");
  }
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(AdminTest, BadArgumentsAreRefused) {
  for (const int size : {-1, 1001}) {
    v1::ListRequestsRequest request;
    request.set_page_size(size);
    With key("key-root");
    v1::ListRequestsResponse response;
    const grpc::Status status = admin_->ListRequests(&key, request, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(absl::StrCat("page_size is ", size)));
  }
  for (const char* token : {"x", "-1", "1 2", "99999999999999999999"}) {
    v1::ListRequestsRequest request;
    request.set_page_token(token);
    With key("key-root");
    v1::ListRequestsResponse response;
    EXPECT_EQ(admin_->ListRequests(&key, request, &response).error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
  for (const int level : {-1, 0, 6}) {
    v1::SetLogLevelRequest request;
    request.set_level(static_cast<v1::LogLevel>(level));
    With key("key-root");
    v1::SetLogLevelResponse response;
    const grpc::Status status = admin_->SetLogLevel(&key, request, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(absl::StrCat("level is ", level)));
  }
}

TEST_F(AdminTest, TheLogLevelIsSet) {
  const std::string before = LogLevel();
  const auto set = [&](v1::LogLevel level) {
    v1::SetLogLevelRequest request;
    request.set_level(level);
    With key("key-root");
    v1::SetLogLevelResponse response;
    EXPECT_TRUE(admin_->SetLogLevel(&key, request, &response).ok());
    return response.previous_level();
  };
  v1::LogLevel last = set(v1::LOG_LEVEL_DEBUG);
  EXPECT_NE(last, v1::LOG_LEVEL_UNSPECIFIED);
  const char* const names[] = {"", "debug", "info", "warning", "error", "off"};
  for (int level = v1::LOG_LEVEL_DEBUG; level <= v1::LOG_LEVEL_OFF; ++level) {
    last = set(static_cast<v1::LogLevel>(level));
    EXPECT_EQ(last, std::max(1, level - 1));
    EXPECT_EQ(LogLevel(), names[level]);
  }
  SetLogLevel(before);
}

TEST_F(AdminTest, TenantsAreReadAgain) {
  const auto reload = [&](v1::ReloadResponse& response) {
    With key("key-root");
    return admin_->Reload(&key, {}, &response);
  };
  file_.Write(TenantEntry("root", "key-root", kAdminFlag));
  v1::ReloadResponse response;
  ASSERT_TRUE(reload(response).ok());
  EXPECT_EQ(response.num_tenants(), 1);
  With gone("key-a");
  EXPECT_EQ(Generate(server_.stub(), TextRequest("x", 1), &gone).status.error_code(),
            StatusCode::UNAUTHENTICATED);

  file_.Write("nonsense");
  const grpc::Status bad = reload(response);
  EXPECT_EQ(bad.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(bad.error_message(), Not(HasSubstr(file_.path())));
  EXPECT_THAT(List(), IsEmpty());  // the key is as good as before
}

TEST_F(AdminTest, ADrainIsToldAndLeavesTheAdminServiceOpen) {
  std::future<grpc::Status> running = StartEndless();
  ASSERT_TRUE(Eventually([&] { return List().size() == 1; }));
  ASSERT_TRUE(Drain(/*hurry=*/false).ok());
  EXPECT_EQ(drained_.get_future().wait_for(std::chrono::seconds(60)),
            std::future_status::ready);
  With key("key-a");
  EXPECT_EQ(Generate(server_.stub(), TextRequest("x", 1), &key).status.error_code(),
            StatusCode::UNAVAILABLE);
  // What runs goes on, and an operator who has waited enough may end it.
  ASSERT_THAT(List(), SizeIs(1));
  EXPECT_TRUE(Cancel(List()[0].id()).ok());
  EXPECT_EQ(running.get().error_code(), StatusCode::CANCELLED);
  server_.server().Shutdown(std::chrono::hours(1));
}

TEST_F(AdminTest, ADrainInAHurryWaitsForNothing) {
  std::future<grpc::Status> running = StartEndless();
  ASSERT_TRUE(Eventually([&] { return List().size() == 1; }));
  ASSERT_TRUE(Drain(/*hurry=*/true).ok());
  server_.server().Shutdown(std::chrono::hours(1));
  EXPECT_EQ(running.get().error_code(), StatusCode::UNAVAILABLE);
}

TEST(AnonymousAdminTest, WithoutTenantsWhoReachesThePortIsAnAdmin) {
  TestServer server({.admin = "127.0.0.1:0"});
  const auto admin = v1::AdminService::NewStub(server.NewAdminChannel());
  grpc::ClientContext list;
  v1::ListRequestsResponse requests;
  EXPECT_TRUE(admin->ListRequests(&list, {}, &requests).ok());
  grpc::ClientContext reload;
  v1::ReloadResponse response;
  EXPECT_EQ(admin->Reload(&reload, {}, &response).error_code(),
            StatusCode::FAILED_PRECONDITION);
  // Twice is as good as once.
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext drain;
    v1::DrainResponse drained;
    EXPECT_TRUE(admin->Drain(&drain, {}, &drained).ok());
  }
}

}  // namespace
}  // namespace goldfinch
