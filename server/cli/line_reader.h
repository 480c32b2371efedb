// Lines of standard input, as long as no signal comes.
//
// Threads: one.
#pragma once

#include <string>

#include "server/cli/signals.h"

namespace goldfinch {

class LineReader {
 public:
  explicit LineReader(const Signals& signals) : signals_(signals) {}

  // False at the end of the input, and when a signal came first.
  bool Read(std::string& line);

 private:
  bool Fill();

  const Signals& signals_;
  std::string read_;  // and not given as a line yet
  bool ended_ = false;
};

}  // namespace goldfinch
