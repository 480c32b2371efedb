#include "tests/hostile/many_calls.h"

#include <gtest/gtest.h>

#include <utility>

#include "tests/hostile/checked_status.h"

namespace goldfinch {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

}  // namespace

ManyCalls::ManyCalls(const std::shared_ptr<grpc::Channel>& channel)
    : stub_(v1::GenerationService::NewStub(channel)) {}

ManyCalls::~ManyCalls() {
  for (const auto& call : calls_) call->context.TryCancel();
  EXPECT_TRUE(WaitForEnds(calls_.size()));
  queue_.Shutdown();
}

void ManyCalls::Start(const v1::GenerateRequest& request,
                      std::optional<std::chrono::system_clock::duration> deadline) {
  auto call = std::make_unique<Pending>();
  call->call.request = request;
  if (deadline) call->context.set_deadline(std::chrono::system_clock::now() + *deadline);
  call->reader = stub_->PrepareAsyncGenerate(&call->context, request, &queue_);
  call->reader->StartCall(call.get());
  calls_.push_back(std::move(call));
}

bool ManyCalls::WaitForEnds(std::size_t count) {
  const auto give_up = std::chrono::system_clock::now() + kPatience;
  while (num_ended_ < count) {
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, give_up) != grpc::CompletionQueue::GOT_EVENT) {
      return false;
    }
    OnEvent(*static_cast<Pending*>(tag), ok);
  }
  return true;
}

void ManyCalls::OnEvent(Pending& pending, bool ok) {
  Call& call = pending.call;
  if (pending.finishing) {
    call.status = Checked(pending.status);
    ++call.num_ends;
    ++num_ended_;
    return;
  }
  if (std::exchange(pending.started, true) && ok) {
    call.tokens.insert(call.tokens.end(), pending.message.tokens().begin(),
                       pending.message.tokens().end());
  }
  if (ok) {
    pending.reader->Read(&pending.message, &pending);
  } else {
    pending.finishing = true;
    pending.reader->Finish(&pending.status, &pending);
  }
}

}  // namespace goldfinch
