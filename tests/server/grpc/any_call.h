// A call of any method by its name, with bytes for a request.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace goldfinch {

using Headers = std::vector<std::pair<std::string, std::string>>;

// Sends one message, reads what comes and gives the status.
grpc::Status CallAny(const std::shared_ptr<grpc::Channel>& channel,
                     const std::string& method, const Headers& headers = {},
                     const std::string& message = "");

// Every method of every service of the contract that callers may use, and of the one that
// operators may: "/goldfinch.v1.S/M".
std::vector<std::string> AllMethods();
std::vector<std::string> AdminMethods();

inline Headers WithKey(const std::string& key) {
  return {{"authorization", "Bearer " + key}};
}

}  // namespace goldfinch
