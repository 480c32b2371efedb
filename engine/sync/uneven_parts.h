// Parts of a loop that take unequally long, laid end to end by the work in them. A pool
// that deals out the work, in pieces it takes to be equal, then deals out the parts: a
// piece has those that begin in it. So a part that is a hundred times another's work is
// not one of many in a piece, and parts are taken in their order, neighbours together.
//
// Parts come in groups of equal ones: the heads of a sequence.
//
// Threads: one at a time; `FirstFrom` and `work` any number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace goldfinch {

class UnevenParts {
 public:
  // For as many groups nothing is allocated later on.
  void Reserve(std::int64_t groups);

  void Clear();
  // `parts` more, each of so much work, which is positive.
  void Add(std::int64_t parts, std::int64_t work_of_each);

  // Of all parts.
  std::int64_t work() const { return end_; }
  // The first part that begins where `at` of the work is before it, or later. What is cut
  // at `a` and `b` are the parts from FirstFrom(a) up to FirstFrom(b).
  std::int64_t FirstFrom(std::int64_t at) const;

 private:
  struct Group {
    std::int64_t begin;  // work before it
    std::int64_t first_part;
    std::int64_t work_of_each;
  };
  std::vector<Group> groups_;
  std::int64_t end_ = 0;
  std::int64_t num_parts_ = 0;
};

}  // namespace goldfinch
