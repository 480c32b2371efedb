// Whether the sweeper has to look at the sessions before its time: memory is full, or
// parks have ended and there is more to park. A sweep walks over all sessions while turns
// that end wait for the lock, so none is due that could start few parks or none.
//
// Threads: under the owner's lock.
#pragma once

#include <cstdint>
#include <utility>

namespace goldfinch {

class SweepDemand {
 public:
  explicit SweepDemand(std::int64_t parks_at_once) : parks_at_once_(parks_at_once) {}

  // Memory is full and sessions can be parked.
  void NoteFull() { (HasRoom() ? due_ : more_to_park_) = true; }

  bool due() const { return due_; }
  // A sweep begins, which finds out anew whether there is more to park.
  void BeginSweep() { due_ = more_to_park_ = false; }
  // Whether it may start another park. If not, the next sweep is due when half of those
  // that are under way have ended.
  bool MayPark() {
    more_to_park_ = more_to_park_ || parking_ >= parks_at_once_;
    return parking_ < parks_at_once_;
  }

  void BeginPark() { ++parking_; }
  void EndPark() {
    --parking_;
    due_ = due_ || (more_to_park_ && HasRoom());
  }

 private:
  bool HasRoom() const { return parking_ <= parks_at_once_ / 2; }

  const std::int64_t parks_at_once_;
  std::int64_t parking_ = 0;
  bool due_ = false;
  bool more_to_park_ = false;
};

}  // namespace goldfinch
