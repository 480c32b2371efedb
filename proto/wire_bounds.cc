#include "proto/wire_bounds.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

namespace goldfinch {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// One number, which the parser puts where there is room for it already, or into a list of
// such numbers.
bool IsNumber(const FieldDescriptor* field, WireFormatLite::WireType type) {
  return field != nullptr && type != WireFormatLite::WIRETYPE_LENGTH_DELIMITED &&
         type == WireFormatLite::WireTypeForFieldType(
                     static_cast<WireFormatLite::FieldType>(field->type()));
}

class Walk {
 public:
  explicit Walk(CodedInputStream& input) : input_(input) {}

  // The message of `type` that goes to the end of the stream, or to its limit. False: it
  // is none, or has too many fields.
  bool Message(const Descriptor& type) {
    while (const std::uint32_t tag = input_.ReadTag()) {
      if (!Field(type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag)),
                 WireFormatLite::GetTagWireType(tag))) {
        return false;
      }
    }
    return input_.ConsumedEntireMessage();
  }

 private:
  bool Field(const FieldDescriptor* field, WireFormatLite::WireType type) {
    if (!IsNumber(field, type) && ++fields_ > kMaxRequestFields) return false;
    std::uint64_t number = 0;
    int size = 0;
    switch (type) {
      case WireFormatLite::WIRETYPE_VARINT:
        return input_.ReadVarint64(&number);
      case WireFormatLite::WIRETYPE_FIXED64:
        return input_.Skip(8);
      case WireFormatLite::WIRETYPE_FIXED32:
        return input_.Skip(4);
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        if (!input_.ReadVarintSizeAsInt(&size)) return false;
        if (field == nullptr || field->message_type() == nullptr) {
          return input_.Skip(size);
        }
        return Nested(*field->message_type(), size);
      default:  // groups, which no version of the contract has
        return false;
    }
  }

  // As deep as the contract's messages are: none holds one of its own type.
  bool Nested(const Descriptor& type, int size) {
    const CodedInputStream::Limit outer = input_.PushLimit(size);
    // All of it must be there; a limit beyond the outer one is cut to that.
    const bool whole = input_.BytesUntilLimit() == size;
    if (!whole || !Message(type)) return false;
    input_.PopLimit(outer);
    return true;
  }

  CodedInputStream& input_;
  int fields_ = 0;
};

}  // namespace

grpc::Status CheckWireBounds(const Descriptor& type, std::int64_t max_bytes,
                             grpc::ByteBuffer& message) {
  if (static_cast<std::int64_t>(message.Length()) > max_bytes) {
    return {grpc::StatusCode::INTERNAL, "the request is too large"};
  }
  grpc::ProtoBufferReader reader(&message);
  if (!reader.status().ok()) return reader.status();
  CodedInputStream input(&reader);
  if (Walk(input).Message(type)) return grpc::Status::OK;
  return {grpc::StatusCode::INTERNAL, "the request has too many fields, or is none"};
}

}  // namespace goldfinch
