// What benches print: a line for each case, as a table or as JSON.
#pragma once

#include <string>

namespace goldfinch {

class Rows {
 public:
  // Prints the head of a table. `decimals` are those of its numbers.
  Rows(bool json, int decimals);

  // What was measured beside its limit, and their ratio; 0 where there is no limit.
  void Print(const std::string& name, double measured, const char* unit,
             double limit) const;

 private:
  const bool json_;
  const int decimals_;
};

}  // namespace goldfinch
