// What tests of tenants do: their requests, their meters, and calls that end with the
// right tokens whatever became of them meanwhile.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {

class TenantsTest : public SchedulerTest {
 protected:
  TenantsTest() {
    engine_options.num_slots = 4;
    options.step_tokens = 16;
  }

  // Tenants of one name share a meter.
  std::shared_ptr<TenantMeter> MeterOf(const std::string& tenant) {
    std::shared_ptr<TenantMeter>& meter = meters_[tenant];
    if (meter == nullptr) meter = std::make_shared<TenantMeter>();
    return meter;
  }
  Request Of(const std::string& tenant, Request request, TenantPolicy policy = {}) {
    request.tenant = tenant;
    request.policy = std::make_shared<TenantPolicy>(policy);
    request.meter = MeterOf(tenant);
    return request;
  }
  // A token of context, and so many to be fed after it for what they score.
  Request ScoreOf(const std::string& tenant, std::int64_t tokens, TenantPolicy policy) {
    Request request = Of(tenant, Generation(1, 0, 1), policy);
    request.kind = RequestKind::kScore;
    request.continuation = Generation(tokens + 1, 0, 2).prompt;
    return request;
  }
  std::int64_t PutAside(const std::string& tenant) { return MeterOf(tenant)->put_aside; }

  // Runs to the end, and checks every call's tokens.
  struct Call {
    Request request;
    Submitted submitted;
  };
  Call Start(const Request& request) { return {request, Submit(request)}; }
  void FinishAll(std::vector<Call*> calls) {
    while (Step()) {
      for (Call* call : calls) call->submitted.reader.Take();
    }
    for (Call* call : calls) {
      Reader& reader = call->submitted.reader;
      reader.Take();
      ASSERT_TRUE(reader.ended());
      EXPECT_TRUE(reader.status().ok()) << reader.status();
      for (std::int32_t i = 0; i < call->request.num_candidates; ++i) {
        EXPECT_EQ(reader.tokens(i), ExpectedTokens(call->request, i)) << i;
      }
    }
  }

  // Two slots of four are another tenant's by right; `asides` become so at once.
  void FloodedByOne(std::int64_t asides) {
    std::vector<Call> calls;
    for (std::uint64_t i = 0; i < 4; ++i) {
      calls.push_back(Start(Of("flood", Generation(4, 50, i))));
    }
    for (int i = 0; i < 3; ++i) Step();
    for (std::uint64_t i = 0; i < 3; ++i) {
      calls.push_back(Start(Of("other", Generation(4, 20, 10 + i))));
    }
    Step();
    EXPECT_EQ(observer.levels.aside_requests, asides);
    std::vector<Call*> all;
    for (Call& call : calls) all.push_back(&call);
    while (Step()) {
      EXPECT_LE(observer.levels.aside_bytes, options.aside_bytes);
      for (Call* call : all) call->submitted.reader.Take();
    }
    FinishAll(all);
    EXPECT_EQ(observer.levels.aside_bytes, 0);
    ExpectAtRest();
  }

 private:
  std::map<std::string, std::shared_ptr<TenantMeter>> meters_;
};

}  // namespace goldfinch
