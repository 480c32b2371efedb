// A channel as the command line wants it: plain or TLS, with the user's key on each of
// its calls.
//
// Threads: any.
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/cli/commands.h"

namespace goldfinch {

// What is wrong with the flags, in one line: files that cannot be read, a key that no
// header can carry, or one that everybody on the way to a server of --server could read.
absl::Status CheckConnection(const ConnectionFlags& flags);

// When a server is given up whose machine is gone without a word. Only while a call is
// under way is it asked whether it is there.
struct Keepalive {
  // A little above a server's --min_ping_interval_seconds: more are taken amiss.
  std::chrono::milliseconds interval = std::chrono::seconds(70);
  std::chrono::milliseconds patience = std::chrono::seconds(20);
};

// For flags that were checked. A channel of its own, which connects at once, and to
// nobody when a file of TLS can no longer be read.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          const ConnectionFlags& flags,
                                          const Keepalive& keepalive = {});

// The addresses of --server.
std::vector<std::string> AddressesOf(const ConnectionFlags& flags);

}  // namespace goldfinch
