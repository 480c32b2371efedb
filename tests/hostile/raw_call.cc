#include "tests/hostile/raw_call.h"

#include <algorithm>
#include <cstddef>
#include <set>

#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr std::size_t kMaxFrameBytes = 16384;
constexpr char kMagic[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

std::string BigEndian(std::uint64_t value, int bytes) {
  std::string out;
  while (bytes-- > 0) out += static_cast<char>(value >> (8 * bytes) & 0xff);
  return out;
}

std::uint32_t Number(std::string_view big_endian) {
  std::uint32_t number = 0;
  for (const char byte : big_endian)
    number = number << 8 | static_cast<std::uint8_t>(byte);
  return number;
}

struct RawFrame {
  FrameType type;
  std::uint8_t flags;
  std::uint32_t stream;
  std::string_view payload;  // what there is of it
};

// Calls `function` with each frame whose head is in `bytes`.
template <typename Function>
void ForEachFrame(std::string_view bytes, const Function& function) {
  while (bytes.size() >= kFrameHeadBytes) {
    const std::size_t size = Number(bytes.substr(0, 3));
    function(RawFrame{static_cast<FrameType>(bytes[3]),
                      static_cast<std::uint8_t>(bytes[4]), Number(bytes.substr(5, 4)),
                      bytes.substr(kFrameHeadBytes, size)});
    bytes.remove_prefix(std::min(kFrameHeadBytes + size, bytes.size()));
  }
}

bool EndsItsStream(const RawFrame& frame) {
  const bool may_carry =
      frame.type == FrameType::kHeaders || frame.type == FrameType::kData;
  return frame.type == FrameType::kReset ||
         (may_carry && (frame.flags & kEndStream) != 0);
}

}  // namespace

std::string Frame(FrameType type, std::uint8_t flags, std::uint32_t stream,
                  std::string_view payload) {
  std::string frame = BigEndian(payload.size(), 3);
  frame += static_cast<char>(type);
  frame += static_cast<char>(flags);
  frame += BigEndian(stream, 4);
  return frame.append(payload);
}

std::string Preface() { return kMagic + Frame(FrameType::kSettings, 0, 0, ""); }

std::string PrefaceWithoutWindow() {
  constexpr std::string_view kNoInitialWindow("\0\x04\0\0\0\0", 6);
  return kMagic + Frame(FrameType::kSettings, 0, 0, kNoInitialWindow);
}

std::string HeaderBlock(const RawHeaders& headers) {
  std::string block;
  const auto add = [&block](const std::string& text) {
    GOLDFINCH_CHECK(text.size() < 127);  // beyond, a length takes more than a byte
    block += static_cast<char>(text.size());
    block += text;
  };
  for (const auto& [name, value] : headers) {
    block += '\0';  // a literal that is not indexed, with a name of its own
    add(name);
    add(value);
  }
  return block;
}

RawHeaders CallHeaders(const std::string& method) {
  return {{":method", "POST"},
          {":scheme", "http"},
          {":path", method},
          {":authority", "server"},
          {"content-type", "application/grpc"},
          {"te", "trailers"}};
}

std::string MessageFrames(std::uint32_t stream, std::string_view message, bool last) {
  std::string bytes = '\0' + BigEndian(message.size(), 4);
  bytes.append(message);
  std::string frames;
  for (std::size_t at = 0; at < bytes.size(); at += kMaxFrameBytes) {
    const bool ends = last && at + kMaxFrameBytes >= bytes.size();
    frames += Frame(FrameType::kData, ends ? kEndStream : 0, stream,
                    std::string_view(bytes).substr(at, kMaxFrameBytes));
  }
  return frames;
}

std::string CallFrames(std::uint32_t stream, const std::string& method,
                       std::string_view message, bool last) {
  return Frame(FrameType::kHeaders, kEndHeaders, stream,
               HeaderBlock(CallHeaders(method))) +
         MessageFrames(stream, message, last);
}

std::vector<FrameType> FrameTypesIn(const std::string& bytes) {
  std::vector<FrameType> types;
  ForEachFrame(bytes, [&](const RawFrame& frame) { types.push_back(frame.type); });
  return types;
}

std::string DataIn(const std::string& bytes) {
  std::string data;
  ForEachFrame(bytes, [&](const RawFrame& frame) {
    if (frame.type == FrameType::kData) data += frame.payload;
  });
  return data;
}

bool EndsAStream(const std::string& bytes) {
  bool ends = false;
  ForEachFrame(bytes, [&](const RawFrame& frame) {
    ends |= EndsItsStream(frame) || frame.type == FrameType::kGoAway;
  });
  return ends;
}

int StreamsAnsweredIn(const std::string& bytes) {
  std::set<std::uint32_t> streams;
  ForEachFrame(bytes, [&](const RawFrame& frame) {
    if (frame.type == FrameType::kHeaders || frame.type == FrameType::kReset)
      streams.insert(frame.stream);
  });
  return static_cast<int>(streams.size());
}

int StreamsEndedIn(const std::string& bytes) {
  std::set<std::uint32_t> streams;
  ForEachFrame(bytes, [&](const RawFrame& frame) {
    if (EndsItsStream(frame)) streams.insert(frame.stream);
  });
  return static_cast<int>(streams.size());
}

RawCall::RawCall(int port, const std::string& method, std::string_view message, bool more)
    : connection_(port) {
  connection_.Send(Preface() + CallFrames(1, method, message, !more));
}

bool RawCall::ReadFirst() {
  std::string bytes;
  while (std::ranges::count(FrameTypesIn(bytes), FrameType::kData) == 0) {
    const std::string some = connection_.ReadSome();
    if (some.empty()) return false;
    bytes += some;
  }
  return true;
}

}  // namespace goldfinch
