// A call whose client is going to vanish, without having read what it was sent.
#pragma once

#include <memory>
#include <string>

#include "tests/server/grpc/harness.h"

namespace goldfinch {

// How a client goes: it says so, its process ends, or its machine does.
enum class Way { kCancels, kCloses, kResets };

class Victim {
 public:
  virtual ~Victim() = default;
  // Waits for its first message and reads that.
  virtual void ReadFirst() = 0;
  virtual void Vanish() = 0;
};

// Any method, "/package.Service/Method", with one message.
struct VictimCall {
  std::string method;
  std::string message;
  bool more = false;  // would follow
};

std::unique_ptr<Victim> StartVictim(Way way, const TestServer& server,
                                    const VictimCall& call);

}  // namespace goldfinch
