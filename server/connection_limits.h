// What a connection may cost the server before anybody knows whose it is.
//
// Threads: a value.
#pragma once

#include <grpcpp/server_builder.h>

#include <cstdint>

namespace goldfinch {

struct ConnectionLimits {
  // A prompt of a million ids is 3 MiB; this leaves room for text of long tokens.
  std::int64_t max_message_bytes = std::int64_t{32} << 20;
  std::int64_t max_metadata_bytes = 16384;
  std::int64_t max_streams = 256;  // calls at once on one connection
  // Then a connection is told to make place for another; calls on it have the grace.
  std::int64_t max_age_seconds = 3600;
  std::int64_t max_age_grace_seconds = 3600;
  // Pings that come faster, with no data between them, are strikes; one strike too many
  // closes the connection.
  std::int64_t min_ping_interval_seconds = 60;
  std::int64_t max_ping_strikes = 2;
  // Of all connections together. Short of it, gRPC closes idle ones and refuses new ones.
  std::int64_t memory_bytes = std::int64_t{1} << 30;
};

void Limit(const ConnectionLimits& limits, grpc::ServerBuilder& builder);

}  // namespace goldfinch
