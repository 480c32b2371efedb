#include "tests/hostile/witness.h"

#include <gtest/gtest.h>

namespace goldfinch {
namespace {

// More than any test has patience for.
constexpr std::int64_t kEndless = 6'000'000;

}  // namespace

Witness::Witness(const std::shared_ptr<grpc::Channel>& channel, const std::string& key)
    : stub_(v1::GenerationService::NewStub(channel)),
      request_(TextRequest("the witness", kEndless)) {
  request_.mutable_sampling()->set_ignore_eos(true);
  if (!key.empty()) context_.AddMetadata("authorization", "Bearer " + key);
  thread_ = std::thread([this] { Read(); });
  ExpectGoesOn();
}

Witness::~Witness() { Finish(); }

void Witness::Read() {
  const auto reader = stub_->Generate(&context_, request_);
  for (v1::GenerateResponse message; reader->Read(&message);) {
    tokens_.insert(tokens_.end(), message.tokens().begin(), message.tokens().end());
    num_tokens_ = tokens_.size();
  }
  status_ = reader->Finish();
  ended_ = true;
}

void Witness::ExpectGoesOn() const {
  const std::size_t before = num_tokens_;
  EXPECT_TRUE(Eventually([&] { return ended_ || num_tokens_ >= before + 100; }));
  EXPECT_FALSE(ended_) << "the witness ended";
}

void Witness::Finish() {
  if (!thread_.joinable()) return;
  ExpectGoesOn();
  context_.TryCancel();
  thread_.join();
  EXPECT_EQ(status_.error_code(), grpc::StatusCode::CANCELLED) << status_.error_message();
  v1::GenerateRequest alone = request_;
  alone.mutable_sampling()->set_max_tokens(static_cast<std::int64_t>(tokens_.size()));
  EXPECT_TRUE(tokens_ == ExpectedTokens(alone))
      << "after " << tokens_.size() << " tokens";
}

}  // namespace goldfinch
