#include "scheduler/tenant_accounts.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

class TenantAccountsTest : public testing::Test {
 protected:
  // Something of `tenant` waits from now on; gives the request.
  const AcceptedRequest& Wait(const std::string& tenant, std::int32_t priority = 0,
                              TimePoint latest = TimePoint::max()) {
    auto accepted = std::make_unique<AcceptedRequest>();
    accepted->id = static_cast<RequestId>(++last_id_);
    accepted->request = Generation(10, 10);
    accepted->request.tenant = tenant;
    accepted->request.priority = priority;
    const AcceptedRequest& request = *accepted;
    accounts_.Add({.fresh = std::move(accepted), .aside = nullptr}, latest);
    return request;
  }
  static TimePoint At(int seconds) { return TimePoint(std::chrono::seconds(seconds)); }
  static std::vector<RequestId> IdsOf(const std::vector<Waiting>& all) {
    std::vector<RequestId> ids;
    for (const Waiting& waiting : all) ids.push_back(waiting.accepted().id);
    return ids;
  }
  void Step() {
    accounts_.Update({});
    accounts_.Report();
  }
  std::vector<std::string> Active() const {
    std::vector<std::string> names;
    for (const TenantAccount* account : accounts_.active()) {
      names.push_back(account->name);
    }
    return names;
  }

  TenantAccounts accounts_{4, 100};

 private:
  std::uint64_t last_id_ = 0;
};

// One that stopped competing unseen would go on competing for ever, with the service it
// had then, and be served before all others when it comes back.
TEST_F(TenantAccountsTest, WhoLeavesInTheMidstOfAStepSavesUpNoService) {
  const RequestId id = Wait("idle").id;
  accounts_.Update({});
  EXPECT_TRUE(accounts_.Take(id).has_value());
  accounts_.Report();
  EXPECT_EQ(Active(), std::vector<std::string>{"idle"}) << "until Update has seen it";
  const AcceptedRequest& busy = Wait("busy");
  Step();
  EXPECT_EQ(Active(), std::vector<std::string>{"busy"});
  accounts_.ChargePrompt(busy, 1000);
  Step();
  const AcceptedRequest& back = Wait("idle");
  Step();
  EXPECT_EQ(busy.account->counter.service, 1000);
  EXPECT_EQ(back.account->counter.service, 1000);
}

TEST_F(TenantAccountsTest, EachIsFoundByItsIdWhileItWaits) {
  const RequestId first = Wait("a").id;
  const RequestId urgent = Wait("a", /*priority=*/2).id;
  const RequestId other = Wait("b").id;
  EXPECT_EQ(accounts_.Take(RequestId{100}), std::nullopt);
  EXPECT_EQ(accounts_.Take(urgent)->accepted().id, urgent);
  EXPECT_EQ(accounts_.Take(urgent), std::nullopt);
  TenantAccount& a = *accounts_.active().front();
  EXPECT_EQ(accounts_.TakeFirst(a).accepted().id, first);
  EXPECT_EQ(accounts_.Take(first), std::nullopt);
  EXPECT_EQ(accounts_.num_fresh(), 1);
  EXPECT_EQ(IdsOf(accounts_.TakeAll()), std::vector{other});
  EXPECT_TRUE(accounts_.empty());
  EXPECT_EQ(accounts_.fresh_tokens(), 0);
}

TEST_F(TenantAccountsTest, WhoIsLateIsTakenInOrderOfTimeWhoseverItIs) {
  EXPECT_EQ(accounts_.next_late(), std::nullopt);
  Wait("a");
  EXPECT_EQ(accounts_.next_late(), std::nullopt) << "it never is";
  const RequestId third = Wait("a", 0, At(30)).id;
  const RequestId first = Wait("b", 0, At(10)).id;
  const RequestId second = Wait("a", 5, At(20)).id;
  const RequestId gone = Wait("b", 0, At(5)).id;
  EXPECT_EQ(accounts_.next_late(), At(5));
  EXPECT_TRUE(accounts_.Take(gone).has_value());
  EXPECT_EQ(accounts_.next_late(), At(10)) << "what has gone keeps nobody awake";
  EXPECT_TRUE(accounts_.TakeLate(At(9)).empty());
  EXPECT_EQ(IdsOf(accounts_.TakeLate(At(20))), (std::vector{first, second}));
  EXPECT_EQ(accounts_.next_late(), At(30));
  EXPECT_EQ(IdsOf(accounts_.TakeLate(At(100))), std::vector{third});
  EXPECT_EQ(accounts_.next_late(), std::nullopt);
  EXPECT_EQ(accounts_.num_fresh(), 1);
}

}  // namespace
}  // namespace goldfinch
