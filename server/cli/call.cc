#include "server/cli/call.h"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/cli/channel.h"
#include "server/text/detokenizer.h"

namespace goldfinch {
namespace {

// A machine that is gone does not even refuse.
constexpr double kConnectSeconds = 3;

template <typename Duration>
Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

bool Connects(grpc::Channel& channel, std::chrono::nanoseconds patience) {
  const auto deadline =
      std::chrono::system_clock::now() +
      std::chrono::duration_cast<std::chrono::system_clock::duration>(patience);
  grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
  while (state == GRPC_CHANNEL_IDLE || state == GRPC_CHANNEL_CONNECTING) {
    if (!channel.WaitForStateChange(state, deadline)) return false;
    state = channel.GetState(/*try_to_connect=*/true);
  }
  return state == GRPC_CHANNEL_READY;
}

}  // namespace

Connection::Connection(const ConnectionFlags& flags)
    : flags_(flags),
      addresses_(AddressesOf(flags)),
      patience_(FromSeconds<std::chrono::nanoseconds>(
          flags.timeout > 0 ? std::min(flags.timeout, kConnectSeconds)
                            : kConnectSeconds)) {}

std::shared_ptr<grpc::Channel> Connection::Channel() {
  if (channel_ != nullptr &&
      channel_->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_READY) {
    reached_ = true;
    return channel_;
  }
  for (std::size_t i = 0; i < addresses_.size(); ++i) {
    if (i > 0) Leave();
    channel_ = NewChannel(addresses_[current_], flags_);
    reached_ = Connects(*channel_, patience_);
    if (reached_) break;
  }
  return channel_;
}

void Connection::Leave() {
  channel_.reset();
  current_ = (current_ + 1) % addresses_.size();
}

std::shared_ptr<grpc::Channel> Connect(const ConnectionFlags& flags) {
  const std::vector<std::string> addresses = AddressesOf(flags);
  if (addresses.size() == 1) return NewChannel(addresses.front(), flags);
  return Connection(flags).Channel();
}

Deadline DeadlineOf(const ConnectionFlags& flags) {
  if (flags.timeout <= 0) return std::nullopt;
  return std::chrono::system_clock::now() +
         FromSeconds<std::chrono::system_clock::duration>(flags.timeout);
}

void SetDeadline(const Deadline& deadline, grpc::ClientContext& context) {
  if (deadline.has_value()) context.set_deadline(*deadline);
}

void SetDeadline(const ConnectionFlags& flags, grpc::ClientContext& context) {
  SetDeadline(DeadlineOf(flags), context);
}

int Report(const grpc::Status& status) {
  if (status.ok()) return 0;
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::fflush(stdout);
  std::fprintf(stderr, "goldfinch: %s: %s\n", absl::StatusCodeToString(code).c_str(),
               status.error_message().c_str());
  return 1;
}

std::string TextMistake(const std::string& text) {
  const std::size_t valid = ValidUtf8Size(text);
  return valid == text.size() ? "" : absl::StrCat("the text is not UTF-8: byte ", valid);
}

std::optional<std::string> ReadStandardInput() {
  std::string text{std::istreambuf_iterator<char>(std::cin),
                   std::istreambuf_iterator<char>()};
  const std::string mistake = TextMistake(text);
  if (mistake.empty()) return text;
  std::fprintf(stderr, "goldfinch: standard input: %s\n", mistake.c_str());
  return std::nullopt;
}

}  // namespace goldfinch
