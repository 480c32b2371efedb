// Where a live view is drawn: all of a terminal, or, where standard output is none, one
// block of plain lines after the other.
//
// Invariant: whatever ends the view but SIGKILL, the terminal is afterwards as it was
// found; also while the program is stopped by ctrl-Z.
//
// Made before other threads, which must not take the signals; one thread uses it.
#pragma once

#include <signal.h>
#include <termios.h>

#include <chrono>
#include <string>
#include <vector>

namespace goldfinch {

class Screen {
 public:
  enum class Event {
    kTime,       // it is time
    kRedraw,     // the terminal has another size, or shows something else
    kQuit,       // the user typed q
    kInterrupt,  // SIGINT, SIGTERM, SIGHUP or SIGQUIT
  };

  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  bool terminal() const { return terminal_; }
  // Cut to the terminal's size; whole, with an empty line between blocks, where there is
  // none. Lines are printable ASCII.
  void Draw(const std::vector<std::string>& lines);
  // Whatever comes first, until then.
  Event Wait(std::chrono::steady_clock::time_point until);

 private:
  void Enter();
  void Leave();
  Event OnSignal();
  // Whether it was the one that ends the view.
  bool OnKeys();

  const bool terminal_;
  bool keys_ = false;  // standard input is a terminal as well
  bool drawn_ = false;
  sigset_t before_;
  int signals_ = -1;  // where they are read from
  termios found_;     // standard input as it was; only with keys_
};

}  // namespace goldfinch
