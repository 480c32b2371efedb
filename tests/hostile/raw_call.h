// Calls as bytes on a socket, for what no client library does: HTTP/2 frames by hand, and
// connections that break off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/server/grpc/raw_connection.h"

namespace goldfinch {

enum class FrameType : std::uint8_t {
  kData = 0,
  kHeaders = 1,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
  kContinuation = 9,
};
inline constexpr std::size_t kFrameHeadBytes = 9;
inline constexpr std::uint8_t kEndStream = 1;   // of DATA and HEADERS
inline constexpr std::uint8_t kEndHeaders = 4;  // of HEADERS and CONTINUATION

std::string Frame(FrameType type, std::uint8_t flags, std::uint32_t stream,
                  std::string_view payload);

// What a client says first: the preface and empty SETTINGS.
std::string Preface();
// The same with a window of nothing: no stream may be sent a byte of a message.
std::string PrefaceWithoutWindow();

// Names and values as HPACK literals; of at most 126 bytes each.
using RawHeaders = std::vector<std::pair<std::string, std::string>>;
std::string HeaderBlock(const RawHeaders& headers);
// Of a call of `method`, "/package.Service/Method".
RawHeaders CallHeaders(const std::string& method);

// A message with gRPC's prefix, in frames no larger than may be sent unasked.
std::string MessageFrames(std::uint32_t stream, std::string_view message, bool last);

// HEADERS and the message of a whole call.
std::string CallFrames(std::uint32_t stream, const std::string& method,
                       std::string_view message, bool last = true);

// The types of the frames in what a server said.
std::vector<FrameType> FrameTypesIn(const std::string& bytes);

// The payloads of its DATA frames, one after the other.
std::string DataIn(const std::string& bytes);

// Whether a frame in it ends a stream or the connection.
bool EndsAStream(const std::string& bytes);

// How many streams its frames have begun to answer, and how many they have ended.
int StreamsAnsweredIn(const std::string& bytes);
int StreamsEndedIn(const std::string& bytes);

// One call on a connection of its own.
class RawCall {
 public:
  // `more`: the client has not said that this was all.
  RawCall(int port, const std::string& method, std::string_view message, bool more);

  // Reads until a part of a message has come; false when the connection ends first.
  bool ReadFirst();
  void Close() { connection_.Close(); }
  void Reset() { connection_.Reset(); }

 private:
  RawConnection connection_;
};

}  // namespace goldfinch
