#include "sessions/directory_totals.h"

#include <utility>

#include "sessions/directory_files.h"
#include "sessions/session_id.h"

namespace goldfinch {
namespace {

// Bytes and tenant of what is stored under `id`; none of nothing, of what is damaged, or
// of what another version wrote.
absl::StatusOr<SnapshotHeader> StoredUnder(int directory, const std::string& id) {
  if (!IsSessionId(id)) return SnapshotHeader();
  auto header = ReadSnapshotHeader(directory, id);
  const absl::Status status = header.status();
  if (absl::IsNotFound(status) || absl::IsDataLoss(status) ||
      absl::IsFailedPrecondition(status)) {
    return SnapshotHeader();
  }
  return header;
}

void Add(TotalsFile& totals, const SnapshotHeader& header, std::int64_t sign) {
  if (header.length == 0) return;
  const auto entry = totals.bytes.try_emplace(header.info.tenant, 0).first;
  entry->second += sign * static_cast<std::int64_t>(header.length);
  if (entry->second <= 0) totals.bytes.erase(entry);
}

}  // namespace

absl::StatusOr<TotalsFile> CountAll(int directory) {
  const auto names = FileNames(directory);
  if (!names.ok()) return names.status();
  TotalsFile totals;
  for (const std::string& name : *names) {
    const std::string id = StemOf(name, kSnapshotSuffix);
    if (id.empty()) continue;
    const auto header = StoredUnder(directory, id);
    if (!header.ok()) return header.status();
    Add(totals, *header, 1);
  }
  return totals;
}

DirectoryTotals::DirectoryTotals(const FileCalls& calls, int directory,
                                 std::function<std::string()> temporary_name)
    : calls_(calls), directory_(directory), temporary_name_(std::move(temporary_name)) {}

absl::StatusOr<std::int64_t> DirectoryTotals::Of(const std::string& tenant) const {
  const auto all = OfAll();
  if (!all.ok()) return all.status();
  const auto entry = all->find(tenant);
  return entry == all->end() ? 0 : entry->second;
}

absl::StatusOr<std::map<std::string, std::int64_t>> DirectoryTotals::OfAll() const {
  auto totals = Read();
  if (!totals.ok()) return totals.status();
  const auto last = StoredUnder(directory_, totals->apart);
  if (!last.ok()) return last.status();
  Add(*totals, *last, 1);
  return std::move(totals->bytes);
}

absl::StatusOr<std::int64_t> DirectoryTotals::BeforeChange(const std::string& id,
                                                           const std::string& tenant) {
  auto totals = Read();
  if (!totals.ok()) return totals.status();
  if (totals->apart != id) {
    const auto last = StoredUnder(directory_, totals->apart);
    if (!last.ok()) return last.status();
    const auto next = StoredUnder(directory_, id);
    if (!next.ok()) return next.status();
    Add(*totals, *last, 1);
    Add(*totals, *next, -1);
    totals->apart = id;
    if (absl::Status status = Write(*totals); !status.ok()) return status;
  }
  const auto entry = totals->bytes.find(tenant);
  return entry == totals->bytes.end() ? 0 : entry->second;
}

absl::Status DirectoryTotals::Count() {
  const auto totals = CountAll(directory_);
  if (!totals.ok()) return totals.status();
  absl::Status status = Write(*totals);
  if (!absl::IsResourceExhausted(status)) return status;
  RemoveFile(directory_, kTotalsName);
  return absl::OkStatus();
}

absl::StatusOr<TotalsFile> DirectoryTotals::Read() const {
  const auto bytes = ReadSmallFile(directory_, kTotalsName, kMaxTotalsBytes);
  if (absl::IsNotFound(bytes.status())) return CountAll(directory_);
  if (!bytes.ok()) return bytes.status();
  auto totals = DecodeTotals(*bytes);
  return totals.ok() ? std::move(totals) : CountAll(directory_);
}

absl::Status DirectoryTotals::Write(const TotalsFile& totals) {
  return ReplaceFile(calls_, directory_, temporary_name_(), kTotalsName,
                     EncodeTotals(totals));
}

}  // namespace goldfinch
