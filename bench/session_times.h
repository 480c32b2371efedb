// How long it takes to park a session and to bring it back, beside plain copies of as
// many bytes: in memory, and in a directory, where the copy is a file written, flushed
// and renamed, or read.
//
// Not thread-safe; the engine is nobody else's meanwhile.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model_engine.h"

namespace goldfinch {

// Seconds, medians of passes in which all take turns; bytes of the snapshot.
struct SessionTimes {
  double bytes = 0;
  double copy = 0;     // of a string
  double keep = 0;     // a sequence kept, as at the end of each turn
  double park = 0;     // a kept one copied out of the engine and made into checked bytes
  double restore = 0;  // the reverse
  double open = 0;     // a sequence that goes on from a kept one
  double file_write = 0;
  double file_read = 0;
  double put = 0;  // DirectoryStore, flushed
  double get = 0;
};

// Of an open sequence at `tokens` - 1 tokens. Files are in a new folder of the system's
// temporary directory, removed in the end.
absl::StatusOr<SessionTimes> MeasureSession(ModelEngine& engine, SequenceId sequence,
                                            std::int64_t tokens);

}  // namespace goldfinch
