#include "tests/hostile/raw_call.h"

#include <algorithm>
#include <cstddef>

#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr std::size_t kMaxFrameBytes = 16384;

std::string BigEndian(std::uint64_t value, int bytes) {
  std::string out;
  while (bytes-- > 0) out += static_cast<char>(value >> (8 * bytes) & 0xff);
  return out;
}

std::size_t PayloadSize(std::string_view head) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < 3; ++i)
    size = size << 8 | static_cast<std::uint8_t>(head[i]);
  return size;
}

// Calls `frame` with the type, the flags and what there is of the payload of each frame
// whose head is in `bytes`.
template <typename Function>
void ForEachFrame(std::string_view bytes, const Function& frame) {
  while (bytes.size() >= kFrameHeadBytes) {
    const std::size_t size = PayloadSize(bytes);
    frame(static_cast<FrameType>(bytes[3]), static_cast<std::uint8_t>(bytes[4]),
          bytes.substr(kFrameHeadBytes, size));
    bytes.remove_prefix(std::min(kFrameHeadBytes + size, bytes.size()));
  }
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

std::string Preface() {
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(FrameType::kSettings, 0, 0, "");
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
  ForEachFrame(bytes, [&](FrameType type, std::uint8_t, std::string_view) {
    types.push_back(type);
  });
  return types;
}

std::string DataIn(const std::string& bytes) {
  std::string data;
  ForEachFrame(bytes, [&](FrameType type, std::uint8_t, std::string_view payload) {
    if (type == FrameType::kData) data += payload;
  });
  return data;
}

bool EndsAStream(const std::string& bytes) {
  bool ends = false;
  ForEachFrame(bytes, [&](FrameType type, std::uint8_t flags, std::string_view) {
    const bool may_carry = type == FrameType::kHeaders || type == FrameType::kData;
    ends |= type == FrameType::kReset || type == FrameType::kGoAway ||
            (may_carry && (flags & kEndStream) != 0);
  });
  return ends;
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
