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
#include "grpc/reflection/v1alpha/reflection.pb.h"
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

#define GOLDFINCH_BOUNDED_REQUEST(Request, max_bytes) \
  template <>                                         \
  class SerializationTraits<Request, void>            \
      : public goldfinch::BoundedRequestTraits<Request, max_bytes> {}

GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::GenerateRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ScoreRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::TokenizeRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::DetokenizeRequest, goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::GetModelRequest, goldfinch::kSmallRequestBytes);

GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::CreateSessionRequest,
                          goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::AppendToSessionRequest,
                          goldfinch::kAnyRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::GetSessionRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::GetSessionHistoryRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ListSessionsRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ForkSessionRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ParkSessionRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::DeleteSessionRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ExportSessionRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ImportSessionRequest,
                          goldfinch::kAnyRequestBytes);

GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::DrainRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ReloadRequest, goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::ListRequestsRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::CancelRequestRequest,
                          goldfinch::kSmallRequestBytes);
GOLDFINCH_BOUNDED_REQUEST(goldfinch::v1::SetLogLevelRequest,
                          goldfinch::kSmallRequestBytes);

GOLDFINCH_BOUNDED_REQUEST(grpc::reflection::v1alpha::ServerReflectionRequest,
                          goldfinch::kSmallRequestBytes);

#undef GOLDFINCH_BOUNDED_REQUEST

}  // namespace grpc
