#include "sessions/session_snapshot.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

absl::Status CheckHistory(const Snapshot& snapshot, const EngineInfo& engine) {
  // The last token of a history is always still to be fed.
  if (snapshot.image != nullptr &&
      snapshot.image->length >= std::ssize(snapshot.tokens)) {
    return absl::DataLossError("the snapshot's history and state do not fit");
  }
  const auto outside = [&](TokenId id) { return id < 0 || id >= engine.vocab_size; };
  if (std::ranges::any_of(snapshot.tokens, outside)) {
    return absl::DataLossError("the snapshot has a token outside the vocabulary");
  }
  return absl::OkStatus();
}

}  // namespace

Snapshot MakeSnapshot(const SessionIdentity& identity, const EngineInfo& engine,
                      const KeptPrefix& kept, std::shared_ptr<const PrefixImage> image,
                      const Turn* turn) {
  Snapshot snapshot;
  snapshot.model_fingerprint = engine.model_fingerprint;
  snapshot.numerics_id = engine.numerics_id;
  snapshot.tenant = identity.tenant;
  snapshot.session_id = identity.id;
  snapshot.generation = identity.generation;
  snapshot.tokens = kept.history();
  if (turn != nullptr) snapshot.turn = *turn;
  snapshot.key_bytes_per_token = image == nullptr ? 0 : engine.key_bytes;
  snapshot.image = std::move(image);
  return snapshot;
}

absl::StatusOr<RestoredSession> RestoreSession(Snapshot snapshot, const Engine& engine) {
  const EngineInfo& info = engine.info();
  absl::Status status = CheckModel(snapshot, info.model_fingerprint);
  if (status.ok()) status = CheckHistory(snapshot, info);
  if (!status.ok()) return status;
  RestoredSession restored;
  restored.numerics_changed = snapshot.numerics_id != info.numerics_id;
  if (snapshot.turn.has_value()) {
    restored.turn = std::make_shared<const Turn>(*std::move(snapshot.turn));
  }
  if (snapshot.image == nullptr) {
    restored.kept = KeptPrefix::Make(std::move(snapshot.tokens), nullptr);
    return restored;
  }
  if (snapshot.key_bytes_per_token != info.key_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has ", snapshot.key_bytes_per_token,
        " bytes a token in its cache; this server's --cache_dtype has ", info.key_bytes));
  }
  status = engine.CheckImage(*snapshot.image);
  if (!status.ok()) return absl::DataLossError(status.message());
  restored.kept = KeptPrefix::Make(std::move(snapshot.tokens), std::move(snapshot.image));
  return restored;
}

}  // namespace goldfinch
