// Which rows of an Attend read which tiles together.
//
// Sequences that went on from one prefix share its pages, and so its tiles: candidates of
// a prompt, forks of a session, prompts that begin as a kept one did. Their lists of
// tiles are a tree, whose edges are the tiles that some lists go through and no other
// does. Each is a run, which is read once for the rows of all its lists; edges begin and
// end where lists may be cut (KvTiles::kCutTiles). Rows of one list are together
// throughout.
//
// Which rows are together changes no bit: each folds the tiles of its own list in their
// order.
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/op_args.h"

namespace goldfinch {

class AttendRuns {
 public:
  // For as many lists and rows nothing is allocated later on.
  void Reserve(std::int64_t lists, std::int64_t rows);

  // List s is entries [tile_begin[s], tile_begin[s + 1]) of `tile`; row i sees list
  // row_list[i], as far as its position, of which nothing is known here.
  void Build(std::span<const std::int32_t> tile_begin, std::span<const std::int32_t> tile,
             std::span<const std::int32_t> row_list);

  // Of each list that rows see, from its root on: a run comes after the one that leads to
  // it, and those that no other leads to, with all that they lead to, one after another.
  // A list without tiles is an empty one.
  std::span<const AttendRun> runs() const { return runs_; }
  // Rows, those of each run side by side.
  std::span<const std::int32_t> order() const { return order_; }

 private:
  std::span<const std::int32_t> TilesOf(std::int32_t list) const;
  void Order(std::span<const std::int32_t> row_list);
  void Split(std::size_t begin, std::size_t end, std::size_t depth);
  void Add(std::size_t begin, std::size_t end, std::size_t first, std::size_t last);

  std::span<const std::int32_t> tile_begin_, tile_;  // during Build
  std::vector<std::int32_t> lists_;                  // neighbours have the most in common
  std::vector<std::size_t> shared_;  // tiles that a list begins with as the one before
  std::vector<std::int32_t> place_;  // of a list, in lists_
  std::vector<std::int32_t> row_begin_;  // of the list at a place, in order_
  std::vector<std::int32_t> order_;
  std::vector<AttendRun> runs_;
  std::int32_t num_items_ = 0;
};

}  // namespace goldfinch
