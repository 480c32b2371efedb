// The server program on the demo model, and what must hold of it: as attacked_server.h,
// read from its metrics, its log and its answers.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {

class RealServer {
 public:
  // With metrics; `flags` are further ones.
  explicit RealServer(const std::vector<std::string>& flags = {});

  // Each is a connection of its own.
  std::shared_ptr<grpc::Channel> NewChannel(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials =
          grpc::InsecureChannelCredentials()) const;
  Program& program() { return server_.program(); }
  const std::string& address() const { return server_.address(); }
  int port() const;

  std::string Scrape() const;
  double Metric(const std::string& name) const;
  // I1: nothing runs, nothing waits, no page and no slot is taken.
  bool BecomesIdle() const;

 private:
  DemoServer server_;
};

// Greedy, so that what it answers is known from asking once.
v1::GenerateRequest GreedyRequest(const std::string& text, std::int64_t max_tokens);

// Lines of a log that are JSON objects; others fail the test.
std::vector<nlohmann::json> LogLines(const std::string& log);

// Of the calls in a log: how many ended with each status. No request has two ends.
std::map<std::string, int> CallEnds(const std::vector<nlohmann::json>& lines);

}  // namespace goldfinch
