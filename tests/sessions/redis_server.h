// A real Redis for a test: started on a socket in a folder of its own, stopped with this.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace goldfinch {

class RedisServer {
 public:
  // Whether the program is installed; else tests skip.
  static bool Available();

  RedisServer();
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  const std::string& socket() const { return socket_; }
  std::string url() const { return "unix://" + socket_; }

  void Start();  // with nothing in it; returns when it answers
  int Listen();  // on a free port of the loopback as well, which it gives
  void Kill();
  void Stop();  // it is there, and does not answer
  void Continue();

  // Runs one command; its answer if that is text or a number.
  std::string Run(const std::vector<std::string>& words) const;

 private:
  void Signal(int number) const;

  std::string folder_;
  std::string socket_;
  pid_t pid_ = -1;
};

}  // namespace goldfinch
