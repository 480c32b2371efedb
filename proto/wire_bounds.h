// What a message may hold before it is parsed.
//
// gRPC parses a request before any code of ours asks for a key, and fields take many
// times their bytes: of an unknown one that is empty, two bytes on the wire are some 60
// parsed. So the bytes are walked first. What takes no more memory than the message had
// bytes is not counted: numbers, ids in a packed list, and the bytes of a string.
//
// Threads: pure functions, any.
#pragma once

#include <google/protobuf/descriptor.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <limits>

namespace goldfinch {

// The largest request that is honest has an entry of logit_bias for each of 1024 tokens,
// 16 stop strings, and a few dozen fields besides.
inline constexpr int kMaxRequestFields = 4096;

// Requests that hold a name or two. The others have the bound of all messages.
inline constexpr std::int64_t kSmallRequestBytes = std::int64_t{128} << 10;
inline constexpr std::int64_t kAnyRequestBytes = std::numeric_limits<std::int64_t>::max();

// Walks `message`, which is of `type`, and takes no memory for it. INTERNAL when it has
// more bytes, or more fields that count, those of nested messages included; or when it is
// no message.
grpc::Status CheckWireBounds(const google::protobuf::Descriptor& type,
                             std::int64_t max_bytes, grpc::ByteBuffer& message);

}  // namespace goldfinch
