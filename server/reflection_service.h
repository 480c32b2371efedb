// Server reflection: tells everybody which methods there are. It needs no key, so a call
// of it takes no thread, and there are only so many at once.
//
// In the place of the library's own, which has a thread for each open call and no bound
// on what a request takes when it is parsed.
//
// Threads: gRPC's, any number at once.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"

namespace goldfinch {

class ReflectionService final
    : public grpc::reflection::v1alpha::ServerReflection::CallbackService {
 public:
  // Calls at once; more get RESOURCE_EXHAUSTED. Who looks at a server is soon done.
  static constexpr int kMaxCalls = 64;

  // Of a server with these services, and with health and reflection.
  explicit ReflectionService(std::vector<std::string> services);

  grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                          grpc::reflection::v1alpha::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  class Call;

  std::vector<std::string> services_;
  std::atomic<int> num_calls_ = 0;
};

}  // namespace goldfinch
