// How many bytes the snapshots of each tenant take in a directory: one small file, which
// the replicas share and change with each snapshot.
//
// The file has the totals without one session, the one that changed last, and names it:
// the bytes of that are taken from its own header. It is written before a snapshot
// changes, naming that. So the totals are right whether a process that was killed in
// between had changed the snapshot or not.
//
// It is not flushed. What a loss of power makes of it is put right by Count, at the next
// start of a server.
//
// Threads: one at a time, under the directory's lock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sessions/directory_format.h"
#include "sessions/files.h"

namespace goldfinch {

// What the headers of all snapshots say. Those that are damaged count nothing.
absl::StatusOr<TotalsFile> CountAll(int directory);

class DirectoryTotals {
 public:
  // `directory` is a file descriptor; `temporary_name` gives a new one.
  DirectoryTotals(const FileCalls& calls, int directory,
                  std::function<std::string()> temporary_name);

  absl::StatusOr<std::int64_t> Of(const std::string& tenant) const;
  absl::StatusOr<std::map<std::string, std::int64_t>> OfAll() const;

  // Before the snapshot of session `id` is written or deleted: the file names that one
  // from now on. Gives what the others of `tenant` take.
  absl::StatusOr<std::int64_t> BeforeChange(const std::string& id,
                                            const std::string& tenant);

  // Reads every snapshot's header and writes the file anew. Where there is no room for it
  // the old one goes, and whoever asks counts.
  absl::Status Count();

 private:
  absl::StatusOr<TotalsFile> Read() const;
  absl::Status Write(const TotalsFile& totals);

  const FileCalls& calls_;
  const int directory_;
  const std::function<std::string()> temporary_name_;
};

}  // namespace goldfinch
