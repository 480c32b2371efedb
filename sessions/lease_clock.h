// The clocks by which leases run; tests have their own.
//
// Threads: any.
#pragma once

#include <chrono>
#include <string>

namespace goldfinch {

class LeaseClock {
 public:
  virtual ~LeaseClock() = default;
  virtual std::chrono::nanoseconds Uptime() const;  // of the machine, sleep included
  virtual std::chrono::nanoseconds World() const;   // since 1970
  virtual std::string BootId() const;               // another one after each start
};

}  // namespace goldfinch
