#include "engine/backend/count_tables.h"

#include <algorithm>
#include <cstddef>

#include "engine/check.h"

namespace goldfinch {

CountTables::CountTables(std::int32_t num_tables)
    : tables_(static_cast<std::size_t>(num_tables)) {
  GOLDFINCH_CHECK(num_tables > 0);
}

std::optional<CountTables::Use> CountTables::Find(const TokenCounts& counts,
                                                  bool pending) const {
  const auto own = std::find_if(tables_.begin(), tables_.end(), [&](const Table& table) {
    return table.id == counts.id();
  });
  if (own == tables_.end()) {
    const auto oldest =
        std::min_element(tables_.begin(), tables_.end(),
                         [](const Table& a, const Table& b) { return a.used < b.used; });
    if (oldest->used == launch_) return std::nullopt;
    return Use{.table = static_cast<std::int32_t>(oldest - tables_.begin())};
  }
  if (own->changed == launch_) return std::nullopt;
  Use use{.table = static_cast<std::int32_t>(own - tables_.begin())};
  if (own->num_prompt == counts.num_prompt()) {
    if (own->num_outputs == counts.num_outputs())
      use.lacks = Lacks::kNothing;
    else if (own->num_outputs + 1 == counts.num_outputs())
      use.lacks = Lacks::kLastOutput;
  }
  // What others of this launch read may not change.
  const bool changes = pending || use.lacks != Lacks::kNothing;
  if (changes && own->used == launch_) return std::nullopt;
  return use;
}

void CountTables::Commit(const Use& use, const TokenCounts& counts, bool pending) {
  Table& table = tables_[static_cast<std::size_t>(use.table)];
  table.id = counts.id();
  table.num_prompt = counts.num_prompt();
  table.num_outputs = counts.num_outputs() + (pending ? 1 : 0);
  table.used = launch_;
  if (pending || use.lacks != Lacks::kNothing) table.changed = launch_;
}

}  // namespace goldfinch
