// A session as the contract tells of it.
//
// Threads: any.
#pragma once

#include <grpcpp/server_context.h>

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "goldfinch/v1/session_service.pb.h"
#include "server/serving_context.h"
#include "sessions/session_manager.h"

namespace goldfinch {

void FillSession(const SessionInfo& info, v1::Session& out);

// What a call ends with that has made `info`, a session of `tenant`, which goes to `out`.
// If its client is gone nobody will ever know of that session: deletes it, and is
// CANCELLED. Before Finish.
absl::Status TellOfNewSession(const ServingContext& serving,
                              const grpc::ServerContextBase& context,
                              const TenantPtr& tenant,
                              const absl::StatusOr<SessionInfo>& info, v1::Session& out);

// Which tokens of a history are asked for: up to `size` from `first` on.
struct HistoryPage {
  std::size_t first = 0;
  std::size_t size = 0;
};
absl::StatusOr<HistoryPage> ReadHistoryPage(const v1::GetSessionHistoryRequest& request);

// INVALID_ARGUMENT when the page begins behind the end. `history` has tokens of
// `vocabulary` only.
absl::Status FillHistory(const std::vector<TokenId>& history, const HistoryPage& page,
                         const Vocabulary& vocabulary,
                         v1::GetSessionHistoryResponse& out);

}  // namespace goldfinch
