// How far a transfer is, for a person: a bar on standard error when that is a terminal,
// and a final line in any case.
//
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace goldfinch {

class Progress {
 public:
  // `verb` as in "exported 8781824 bytes".
  explicit Progress(std::string verb);

  // In bytes; 0: not known, as at first.
  void set_total(std::int64_t total) { total_ = total; }
  void Add(std::int64_t bytes);
  // Takes the bar away; before anything else is said.
  void Erase();
  // It is complete.
  void Finish();

 private:
  using Clock = std::chrono::steady_clock;

  void Draw();
  double BytesPerSecond() const;

  const std::string verb_;
  const bool terminal_;
  const Clock::time_point start_;
  std::int64_t total_ = 0;
  std::int64_t done_ = 0;
  Clock::time_point drawn_;
  bool visible_ = false;
};

}  // namespace goldfinch
