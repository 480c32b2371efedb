#include "server/connection_limits.h"

#include <grpc/grpc.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <limits>

namespace goldfinch {
namespace {

// Who connects and says nothing more is gone after this.
constexpr int kHandshakeMillis = 20'000;

// A client that vanished without a word is found out within about a minute and a half.
constexpr int kKeepaliveMillis = 60'000;
constexpr int kKeepaliveTimeoutMillis = 20'000;

int Int(std::int64_t value) {
  return static_cast<int>(std::min<std::int64_t>(value, std::numeric_limits<int>::max()));
}

int Millis(std::int64_t seconds) { return Int(seconds * 1000); }

}  // namespace

void Limit(const ConnectionLimits& limits, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(Int(limits.max_message_bytes));
  builder.SetMaxSendMessageSize(Int(limits.max_message_bytes));
  grpc::ResourceQuota quota("goldfinch");
  quota.Resize(static_cast<std::size_t>(limits.memory_bytes));
  builder.SetResourceQuota(quota);
  const auto set = [&builder](const char* name, int value) {
    builder.AddChannelArgument(name, value);
  };
  set(GRPC_ARG_MAX_METADATA_SIZE, Int(limits.max_metadata_bytes));
  set(GRPC_ARG_MAX_CONCURRENT_STREAMS, Int(limits.max_streams));
  set(GRPC_ARG_MAX_CONNECTION_AGE_MS, Millis(limits.max_age_seconds));
  set(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, Millis(limits.max_age_grace_seconds));
  set(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      Millis(limits.min_ping_interval_seconds));
  set(GRPC_ARG_HTTP2_MAX_PING_STRIKES, Int(limits.max_ping_strikes));
  set(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMillis);
  set(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMillis);
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMillis);
  // A compressed message takes what it inflates to, a thousand times its bytes, before
  // anybody has asked how large that is or for a key. Such a call is UNIMPLEMENTED, and
  // its message stays as it came until it is.
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP})
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  set(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  // Two servers on one port would share its calls at random.
  set(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace goldfinch
