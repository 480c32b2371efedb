#include "engine/cache/sequence_table.h"

#include <ranges>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"

namespace goldfinch {

SequenceTable::SequenceTable(const EngineInfo& info, std::int64_t spare_slots,
                             std::function<void(std::int32_t)> on_free)
    : info_(info),
      on_free_(std::move(on_free)),
      pool_(info.num_pages),
      open_refs_(static_cast<std::size_t>(info.num_pages), 0),
      sequences_(static_cast<std::size_t>(info.num_slots)) {
  const auto num_slots = static_cast<std::int32_t>(info.num_slots + spare_slots);
  free_ids_.reserve(sequences_.size());
  free_slots_.reserve(static_cast<std::size_t>(num_slots));
  for (std::int32_t id = info.num_slots; id-- > 0;) free_ids_.push_back(id);
  for (std::int32_t slot = num_slots; slot-- > 0;) free_slots_.push_back(slot);
}

Sequence& SequenceTable::Get(SequenceId id) {
  GOLDFINCH_CHECK(static_cast<std::size_t>(id) < sequences_.size());
  Sequence& sequence = sequences_[static_cast<std::size_t>(id)];
  GOLDFINCH_CHECK(sequence.open);
  return sequence;
}

Prefix& SequenceTable::Get(PrefixId id) {
  GOLDFINCH_CHECK(static_cast<std::size_t>(id) < prefixes_.size());
  Prefix& prefix = prefixes_[static_cast<std::size_t>(id)];
  GOLDFINCH_CHECK(prefix.kept);
  return prefix;
}

const Prefix& SequenceTable::Get(PrefixId id) const {
  return const_cast<SequenceTable*>(this)->Get(id);
}

EngineUsage SequenceTable::usage() const {
  return {.pages_used = pool_.used(),
          .pages_open = pages_open_,
          .slots_used = info_.num_slots - static_cast<std::int32_t>(free_ids_.size())};
}

absl::StatusOr<SequenceId> SequenceTable::Open(const SequenceSpec& spec,
                                               std::span<const std::int32_t> shared) {
  GOLDFINCH_CHECK(spec.max_tokens > 0 && spec.first_logits < spec.max_tokens);
  if (free_ids_.empty())
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", info_.num_slots, " state slots are in use"));
  const auto num_shared = static_cast<std::int64_t>(shared.size());
  const std::int64_t own = info_.PagesFor(spec.max_tokens) - num_shared;
  std::vector<std::int32_t> pages(shared.begin(), shared.end());
  if (!pool_.Allocate(own, pages))
    return absl::ResourceExhaustedError(
        absl::StrCat("the sequence needs ", own, " pages; ",
                     pool_.num_pages() - pool_.used(), " are free"));
  for (const std::int32_t page : shared) pool_.Ref(page);
  for (const std::int32_t page : pages)
    if (open_refs_[static_cast<std::size_t>(page)]++ == 0) ++pages_open_;

  const std::int32_t id = free_ids_.back();
  free_ids_.pop_back();
  Sequence& sequence = sequences_[static_cast<std::size_t>(id)];
  sequence = Sequence{.open = true,
                      .slot = TakeSlot(),
                      .spec = spec,
                      .num_generated = spec.num_generated,
                      .pages = std::move(pages)};
  if (spec.sampling.HasPenalties()) sequence.counts.emplace(info_.vocab_size);
  return SequenceId{id};
}

std::int32_t SequenceTable::TakeSlot() {
  GOLDFINCH_CHECK(!free_slots_.empty());
  const std::int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void SequenceTable::TakeNextSlot(Sequence& sequence) {
  GOLDFINCH_CHECK(sequence.next_slot < 0 && spare_slots() > 0);
  sequence.next_slot = TakeSlot();
}

void SequenceTable::MoveToNextSlot(Sequence& sequence) {
  GOLDFINCH_CHECK(sequence.next_slot >= 0);
  free_slots_.push_back(std::exchange(sequence.slot, sequence.next_slot));
  sequence.next_slot = -1;
}

void SequenceTable::Release(std::span<const std::int32_t> pages) {
  // The last one first: whoever takes these pages next has them in this order again, and
  // pages that lie side by side are copied in one piece.
  for (const std::int32_t page : std::views::reverse(pages))
    if (pool_.Unref(page)) on_free_(page);
}

void SequenceTable::Close(SequenceId id) {
  Sequence& sequence = Get(id);
  for (const std::int32_t page : sequence.pages)
    if (--open_refs_[static_cast<std::size_t>(page)] == 0) --pages_open_;
  Release(sequence.pages);
  free_slots_.push_back(sequence.slot);
  if (sequence.next_slot >= 0) free_slots_.push_back(sequence.next_slot);
  sequence = Sequence{};
  free_ids_.push_back(static_cast<std::int32_t>(id));
}

PrefixId SequenceTable::Keep(SequenceId id) {
  const Sequence& sequence = Get(id);
  GOLDFINCH_CHECK(sequence.parent == SequenceId::kNone && sequence.length > 0);
  const auto count = static_cast<std::ptrdiff_t>(info_.PagesFor(sequence.length));
  Prefix prefix{.kept = true,
                .length = sequence.length,
                .gold = sequence.gold,
                .pages = {sequence.pages.begin(), sequence.pages.begin() + count}};
  for (const std::int32_t page : prefix.pages) pool_.Ref(page);
  return AddPrefix(std::move(prefix));
}

absl::StatusOr<PrefixId> SequenceTable::NewPrefix(std::int64_t length) {
  Prefix prefix{.kept = true, .length = length};
  const std::int64_t pages = info_.PagesFor(length);
  if (!pool_.Allocate(pages, prefix.pages))
    return absl::ResourceExhaustedError(
        absl::StrCat("the prefix needs ", pages, " pages; ",
                     pool_.num_pages() - pool_.used(), " are free"));
  return AddPrefix(std::move(prefix));
}

PrefixId SequenceTable::AddPrefix(Prefix prefix) {
  if (free_prefixes_.empty()) {
    free_prefixes_.push_back(static_cast<std::int32_t>(prefixes_.size()));
    prefixes_.emplace_back();
  }
  const std::int32_t id = free_prefixes_.back();
  free_prefixes_.pop_back();
  prefixes_[static_cast<std::size_t>(id)] = std::move(prefix);
  return PrefixId{id};
}

void SequenceTable::Drop(PrefixId id) {
  Prefix& prefix = Get(id);
  Release(prefix.pages);
  prefix = Prefix{};
  free_prefixes_.push_back(static_cast<std::int32_t>(id));
}

std::span<const std::int32_t> SequenceTable::FullPages(const Prefix& prefix) const {
  if (prefix.pages.empty()) return {};
  return std::span(prefix.pages)
      .first(static_cast<std::size_t>(prefix.length / info_.page_tokens));
}

std::int64_t SequenceTable::PagesToOpen(PrefixId base, std::int64_t max_tokens) const {
  std::int64_t pages = info_.PagesFor(max_tokens);
  for (const std::int32_t page : FullPages(Get(base)))
    if (open_refs_[static_cast<std::size_t>(page)] > 0) --pages;
  return pages;
}

}  // namespace goldfinch
