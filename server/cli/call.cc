#include "server/cli/call.h"

#include <algorithm>
#include <cstdio>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/channel.h"
#include "server/cli/signals.h"
#include "server/text/detokenizer.h"

namespace goldfinch {
namespace {

using SystemClock = std::chrono::system_clock;

// A machine that is gone does not even refuse. Where there is no other one, the library
// gives up by itself, later.
constexpr auto kConnectPatience = std::chrono::seconds(3);
// A signal that came is seen after this.
constexpr auto kBetweenLooks = std::chrono::milliseconds(100);
// To tell why nothing connects; a call on a channel that has failed fails at once.
constexpr auto kWhyPatience = std::chrono::seconds(1);

// Beyond it the clock's numbers end.
constexpr double kMaxSeconds = 1e9;

bool IsOver(const Deadline& deadline) {
  return deadline.has_value() && SystemClock::now() >= *deadline;
}

}  // namespace

Connection::Connection(const ConnectionFlags& flags, const Signals* signals)
    : flags_(flags), signals_(signals), addresses_(AddressesOf(flags)) {}

std::shared_ptr<grpc::Channel> Connection::Channel(const Deadline& deadline) {
  if (channel_ != nullptr &&
      channel_->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_READY) {
    reached_ = true;
    return channel_;
  }
  for (std::size_t i = 0; i < addresses_.size(); ++i) {
    if (i > 0) Leave();
    channel_ = NewChannel(addresses_[current_], flags_);
    reached_ = Connects(PatienceWith(addresses_.size() - i, deadline));
    if (reached_) break;
  }
  return channel_;
}

// Until when the first of so many servers is waited for.
Deadline Connection::PatienceWith(std::size_t num_left, const Deadline& deadline) const {
  if (addresses_.size() == 1) return deadline;
  const SystemClock::time_point now = SystemClock::now();
  SystemClock::duration patience = kConnectPatience;
  if (deadline.has_value()) {
    patience = std::min(patience, (*deadline - now) / static_cast<int>(num_left));
  }
  return now + patience;
}

bool Connection::Connects(const Deadline& deadline) const {
  for (;;) {
    const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
    if (state != GRPC_CHANNEL_IDLE && state != GRPC_CHANNEL_CONNECTING) {
      return state == GRPC_CHANNEL_READY;
    }
    if (IsOver(deadline) || (signals_ != nullptr && signals_->interrupted()))
      return false;
    const SystemClock::time_point next = SystemClock::now() + kBetweenLooks;
    channel_->WaitForStateChange(state, std::min(deadline.value_or(next), next));
  }
}

grpc::Status Connection::WhyNotReached(const Deadline& deadline) const {
  const std::string& address = addresses_[current_];
  if (IsOver(deadline)) {
    return {grpc::StatusCode::DEADLINE_EXCEEDED,
            absl::StrCat("the time was over before ", address, " was reached")};
  }
  // The files of TLS may have gone since.
  if (const absl::Status flags = CheckConnection(flags_); !flags.ok()) {
    return {grpc::StatusCode::UNAVAILABLE, std::string(flags.message())};
  }
  grpc::Status status;
  if (channel_->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_TRANSIENT_FAILURE) {
    grpc::ClientContext context;
    context.set_deadline(SystemClock::now() + kWhyPatience);
    v1::GetModelResponse unused;
    status = v1::GenerationService::NewStub(channel_)->GetModel(&context, {}, &unused);
  }
  // Anything else is no reason: it may have got through after all.
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) return status;
  return {grpc::StatusCode::UNAVAILABLE,
          absl::StrCat(address, " did not answer in time")};
}

void Connection::Leave() {
  channel_.reset();
  current_ = (current_ + 1) % addresses_.size();
}

std::shared_ptr<grpc::Channel> Connect(const ConnectionFlags& flags) {
  const std::vector<std::string> addresses = AddressesOf(flags);
  if (addresses.size() == 1) return NewChannel(addresses.front(), flags);
  return Connection(flags).Channel(DeadlineOf(flags));
}

Deadline DeadlineOf(const ConnectionFlags& flags) {
  if (flags.timeout <= 0) return std::nullopt;
  const std::chrono::duration<double> seconds(std::min(flags.timeout, kMaxSeconds));
  return SystemClock::now() + std::chrono::duration_cast<SystemClock::duration>(seconds);
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

}  // namespace goldfinch
