// What stands between a client and a server: a connection that passes bytes on until it
// is told not to, as when a machine or a cable is gone and nobody says so.
//
// Threads: the test's; one of its own passes bytes on.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace goldfinch {

// Connections whose bytes are passed on later.
struct LateConnections {
  int first = 0;  // as numbered in the order they come
  int count = 0;
  std::chrono::milliseconds delay{0};
};

class Proxy {
 public:
  // To the port of this machine.
  explicit Proxy(int port, const LateConnections& late = {});
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  std::string address() const;

  // From now on no byte of any connection is passed on, and none is closed.
  void Freeze() { frozen_ = true; }
  // Connections that came so far.
  int num_accepted() const { return num_accepted_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Link {
    int client = -1;
    int server = -1;
    Clock::time_point begin;  // of passing on
  };

  void Run();
  void Accept();
  static bool Pass(int from, int to);
  static void Close(const Link& link);

  const int server_port_;
  const LateConnections late_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> frozen_ = false, stopping_ = false;
  std::atomic<int> num_accepted_ = 0;
  std::vector<Link> links_;  // of the thread
  std::thread thread_;
};

}  // namespace goldfinch
