// How gRPC reads the requests of the contract: within the bounds of proto/wire_bounds.h,
// and with the status of what does not parse beyond them.
//
// The generated code of the services includes this (proto/CMakeLists.txt), so that no
// translation unit can see them and read a request in another way. Answers are none of
// this header's business, nor is how requests are written.
#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>

#include "goldfinch/v1/admin_service.pb.h"
#include "goldfinch/v1/generation_service.pb.h"
#include "goldfinch/v1/session_service.pb.h"
#include "proto/wire_bounds.h"

namespace goldfinch {

template <typename Request, std::int64_t kMaxBytes>
class BoundedRequestTraits {
 public:
  static grpc::Status Serialize(const grpc::protobuf::MessageLite& message,
                                grpc::ByteBuffer* buffer, bool* own_buffer) {
    return grpc::GenericSerialize<grpc::ProtoBufferWriter, Request>(message, buffer,
                                                                    own_buffer);
  }

  static grpc::Status Deserialize(grpc::ByteBuffer* buffer,
                                  grpc::protobuf::MessageLite* message) {
    if (buffer != nullptr) {
      grpc::Status status = CheckWireBounds(*Request::descriptor(), kMaxBytes, *buffer);
      if (!status.ok()) {
        buffer->Clear();  // the caller lets go of it without
        return status;
      }
    }
    return grpc::GenericDeserialize<grpc::ProtoBufferReader, Request>(buffer, message);
  }
};

}  // namespace goldfinch

namespace grpc {

#define GOLDFINCH_BOUNDED_REQUEST(Request, max_bytes)     \
  template <>                                             \
  class SerializationTraits<goldfinch::v1::Request, void> \
      : public goldfinch::BoundedRequestTraits<goldfinch::v1::Request, max_bytes> {}

GOLDFINCH_BOUNDED_REQUEST(GenerateRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ScoreRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(TokenizeRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(DetokenizeRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(GetModelRequest, goldfinch::kSmallRequestBytes);

GOLDFINCH_BOUNDED_REQUEST(CreateSessionRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(AppendToSessionRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(GetSessionRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(GetSessionHistoryRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ListSessionsRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ForkSessionRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ParkSessionRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(DeleteSessionRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ExportSessionRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ImportSessionRequest, goldfinch::kAnyRequestBytes);

GOLDFINCH_BOUNDED_REQUEST(DrainRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ReloadRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(ListRequestsRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(CancelRequestRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(SetLogLevelRequest, goldfinch::kSmallRequestBytes);

#undef GOLDFINCH_BOUNDED_REQUEST

}  // namespace grpc
