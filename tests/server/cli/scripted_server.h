// A server whose answers to Generate are written down beforehand: for what a real one
// does only when it is restarted at the right moment. It has sessions "a", "b" and "c",
// in two pages.
//
// Threads: the test's; gRPC's run the answers.
#pragma once

#include <grpcpp/server.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "engine/sync/mutex.h"
#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "goldfinch/v1/session_service.grpc.pb.h"

namespace goldfinch {

class ScriptedServer {
 public:
  struct Answer {
    std::vector<v1::GenerateResponse> messages;
    grpc::Status status;
  };

  // Further calls get the last answer again.
  explicit ScriptedServer(std::vector<Answer> answers);
  ~ScriptedServer();

  std::string address() const;
  int port() const { return port_; }
  std::vector<v1::GenerateRequest> requests() const;
  std::vector<std::string> deleted() const;  // sessions
  // Forks are "copy1", "copy2" and so on, unless they are refused.
  void RefuseForks(const grpc::Status& status);

 private:
  class Generation;
  class Sessions;

  const std::vector<Answer> answers_;
  std::unique_ptr<Generation> generation_;
  std::unique_ptr<Sessions> sessions_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable Mutex mu_;
  std::vector<v1::GenerateRequest> requests_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> deleted_ ABSL_GUARDED_BY(mu_);
  grpc::Status fork_status_ ABSL_GUARDED_BY(mu_);
  int num_forks_ ABSL_GUARDED_BY(mu_) = 0;
};

// A message of one token, and the last one.
v1::GenerateResponse Piece(std::int32_t token, const std::string& text);
v1::GenerateResponse LastPiece(std::int32_t token, const std::string& text);

}  // namespace goldfinch
