// A stream that goes on beside a fault and notices if it was touched by it (I2): every
// token it gets is compared with what the request generates alone.
//
// Threads: its own reads; made, used and destroyed by one.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {

class Witness {
 public:
  // On a connection of its own. Returns when its first tokens are there. `key` is sent
  // unless it is empty.
  explicit Witness(const std::shared_ptr<grpc::Channel>& channel,
                   const std::string& key = "");
  explicit Witness(const TestServer& server) : Witness(server.NewChannel()) {}
  ~Witness();  // as Finish, if that was not called
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;

  // Waits until it has got a good many tokens more: others do not hold it up.
  void ExpectGoesOn() const;
  // ExpectGoesOn, then cancels it and compares all its tokens.
  void Finish();

 private:
  void Read();

  const std::unique_ptr<v1::GenerationService::Stub> stub_;
  v1::GenerateRequest request_;
  grpc::ClientContext context_;
  std::vector<TokenId> tokens_;  // of the reading thread until it has ended
  grpc::Status status_;          // likewise
  std::atomic<std::size_t> num_tokens_ = 0;
  std::atomic<bool> ended_ = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace goldfinch
