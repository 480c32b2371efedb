// Calls of Generate, as many at once as a test likes, on one thread and one connection.
//
// Threads: one.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {

class ManyCalls {
 public:
  explicit ManyCalls(const std::shared_ptr<grpc::Channel>& channel);
  ~ManyCalls();

  void Start(const v1::GenerateRequest& request,
             std::optional<std::chrono::system_clock::duration> deadline = {});
  // Reads all until `count` of them have ended; false when that takes too long.
  bool WaitForEnds(std::size_t count);

  struct Call {
    v1::GenerateRequest request;
    std::vector<TokenId> tokens;  // that came
    std::optional<grpc::Status> status;
    int num_ends = 0;  // times that it got a status
  };
  const Call& operator[](std::size_t index) const { return calls_[index]->call; }
  std::size_t size() const { return calls_.size(); }
  std::size_t num_ended() const { return num_ended_; }

 private:
  struct Pending {
    Call call;
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader;
    v1::GenerateResponse message;
    grpc::Status status;
    bool finishing = false;
    bool started = false;
  };
  void OnEvent(Pending& call, bool ok);

  const std::unique_ptr<v1::GenerationService::Stub> stub_;
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<Pending>> calls_;
  std::size_t num_ended_ = 0;
};

}  // namespace goldfinch
