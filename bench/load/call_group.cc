#include "bench/load/call_group.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <memory>
#include <utility>

namespace goldfinch {

// Deletes itself when it has ended.
class CallGroup::Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(CallGroup& group, const v1::GenerateRequest& request, CallEvents events)
      : group_(group), request_(request), events_(std::move(events)) {}

  void Begin(v1::GenerationService::Stub& stub) {
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.tokens_size() > 0) events_.on_tokens(response_.tokens_size());
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    events_.on_end(status);
    // Last of all: once it is empty the group, and what the events use, may be gone.
    CallGroup& group = group_;
    const std::unique_ptr<Call> self(this);
    events_ = {};
    group.Remove(this);
  }

 private:
  CallGroup& group_;
  grpc::ClientContext context_;
  const v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  CallEvents events_;
};

CallGroup::~CallGroup() {
  CancelAll();
  AwaitEnd();
}

bool CallGroup::Start(v1::GenerationService::Stub& stub,
                      const v1::GenerateRequest& request, CallEvents events) {
  auto call = std::make_unique<Call>(*this, request, std::move(events));
  if (!Add(call.get())) return false;
  call.release()->Begin(stub);  // now its own
  return true;
}

bool CallGroup::Add(Call* call) {
  MutexLock lock(mu_);
  if (cancelled_) return false;
  calls_.insert(call);
  return true;
}

void CallGroup::Remove(Call* call) {
  MutexLock lock(mu_);
  calls_.erase(call);
  if (calls_.empty()) changed_.NotifyAll();
}

void CallGroup::CancelAll() {
  MutexLock lock(mu_);
  cancelled_ = true;
  for (Call* call : calls_) call->Cancel();
}

bool CallGroup::cancelled() {
  MutexLock lock(mu_);
  return cancelled_;
}

void CallGroup::AwaitEnd() {
  MutexLock lock(mu_);
  while (!calls_.empty()) changed_.Wait(mu_);
}

}  // namespace goldfinch
