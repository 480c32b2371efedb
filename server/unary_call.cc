#include "server/unary_call.h"

#include <utility>

#include "server/status.h"

namespace goldfinch {

absl::Status UnaryCall::Begin(Takes takes, const grpc::CallbackServerContext& context) {
  absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, context);
  if (!tenant.ok()) return tenant.status();
  tenant_ = *std::move(tenant);
  entered_ = serving_.calls.Enter(self_);
  if (takes == Takes::kMemory) return MayBegin(serving_, entered_);
  return entered_ ? absl::OkStatus() : ShuttingDown();
}

void UnaryCall::End(absl::Status status) {
  if (status.ok()) {
    status = unread_.Begin(*response_, serving_.transfers, tenant_->name,
                           serving_.clock.Now());
  }
  const bool of_tenant = refusals_ == Refusals::kOfTenant;
  Finish(EndStatus(serving_, of_tenant ? tenant_ : nullptr, status));
}

void UnaryCall::OnDone() {
  const std::shared_ptr<UnaryCall> self = std::move(self_);
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
