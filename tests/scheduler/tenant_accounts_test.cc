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
  const AcceptedRequest& Wait(const std::string& tenant) {
    auto accepted = std::make_unique<AcceptedRequest>();
    accepted->id = static_cast<RequestId>(++last_id_);
    accepted->request = Generation(10, 10);
    accepted->request.tenant = tenant;
    const AcceptedRequest& request = *accepted;
    accounts_.Add({.fresh = std::move(accepted), .aside = nullptr});
    return request;
  }
  // What waits of `tenant` goes, as when it is cancelled.
  void Leave(const std::string& tenant) {
    left_ = accounts_.Extract([&](const Waiting& waiting) {
      return waiting.accepted().request.tenant == tenant;
    });
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
  std::vector<Waiting> left_;
};

// One that stopped competing unseen would go on competing for ever, with the service it
// had then, and be served before all others when it comes back.
TEST_F(TenantAccountsTest, WhoLeavesInTheMidstOfAStepSavesUpNoService) {
  Wait("idle");
  accounts_.Update({});
  Leave("idle");
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

}  // namespace
}  // namespace goldfinch
