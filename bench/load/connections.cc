#include "bench/load/connections.h"

#include <grpcpp/channel.h>
#include <grpcpp/completion_queue.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/load/call_group.h"
#include "bench/load/prompt.h"
#include "bench/load/tally.h"
#include "bench/load/timetable.h"
#include "engine/sync/mutex.h"
#include "server/cli/channel.h"
#include "server/cli/retry_delay.h"

namespace goldfinch {
namespace {

using Clock = std::chrono::steady_clock;
using Channels = std::vector<std::shared_ptr<grpc::Channel>>;

// More at once would overflow the queue in which the system keeps them for the server.
constexpr std::size_t kOpeningAtOnce = 128;
// For the next one of them.
constexpr auto kOpenPatience = std::chrono::seconds(60);
// After which a connection is looked at even if nothing was told of it.
constexpr auto kLook = std::chrono::milliseconds(500);

// Opens connections, each one a channel of its own, many at a time.
class Opening {
 public:
  Opening(std::int64_t count, const ConnectionFlags& flags)
      : flags_(flags), channels_(static_cast<std::size_t>(count)) {}
  ~Opening() {
    changes_.Shutdown();
    void* tag = nullptr;
    bool changed = false;
    while (changes_.Next(&tag, &changed)) {
    }
  }

  absl::StatusOr<Channels> Run() {
    std::size_t next = 0;
    Clock::time_point give_up = Clock::now() + kOpenPatience;
    while (next < channels_.size() || num_opening_ > 0) {
      if (next < channels_.size() && num_opening_ < kOpeningAtOnce) {
        channels_[next] = NewChannel(flags_.server, flags_);
        Watch(next++);
        continue;
      }
      void* tag = nullptr;
      bool changed = false;
      changes_.Next(&tag, &changed);
      --num_opening_;
      const auto i = reinterpret_cast<std::size_t>(tag);
      const grpc_connectivity_state state = Watch(i);
      if (state == GRPC_CHANNEL_READY) give_up = Clock::now() + kOpenPatience;
      // The library would try again by itself; who tests a server wants to know.
      if (state == GRPC_CHANNEL_TRANSIENT_FAILURE) return Failure(i, "failed");
      if (Clock::now() > give_up) return Failure(i, "does not open");
    }
    return std::move(channels_);
  }

 private:
  // Its change of state, unless it is open, will be told.
  grpc_connectivity_state Watch(std::size_t i) {
    const grpc_connectivity_state state = channels_[i]->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return state;
    ++num_opening_;
    channels_[i]->NotifyOnStateChange(state, std::chrono::system_clock::now() + kLook,
                                      &changes_, reinterpret_cast<void*>(i));
    return state;
  }
  absl::Status Failure(std::size_t i, const char* what) const {
    return absl::UnavailableError(
        absl::StrCat("connection ", i + 1, " of ", channels_.size(), " ", what));
  }

  const ConnectionFlags flags_;
  Channels channels_;
  grpc::CompletionQueue changes_;
  std::size_t num_opening_ = 0;
};

// Keeps the streams going.
class Streams {
 public:
  Streams(const ConnectionsLoad& load, const RequestShape& shape,
          const Channels& channels, const TellProgress& tell)
      : load_(load), shape_(shape), tell_(tell), calls_on_(channels.size()) {
    for (const auto& channel : channels) {
      stubs_.push_back(v1::GenerationService::NewStub(channel));
    }
  }

  // Returns when the last call has ended.
  void Run() {
    for (std::int64_t i = 0; i < load_.streams; ++i) Next();
    {
      MutexLock lock(mu_);
      while (num_used_ < calls_on_.size()) changed_.Wait(mu_);
    }
    tell_("each connection was used");
    std::this_thread::sleep_for(std::chrono::duration<double>(load_.seconds));
    {
      MutexLock lock(mu_);
      stopping_ = true;
      while (open_ > 0) changed_.Wait(mu_);
    }
    timetable_.Stop();
    calls_.AwaitEnd();
  }

  void AddTo(ConnectionsResult& result) {
    MutexLock lock(mu_);
    result.used = static_cast<std::int64_t>(num_used_);
    result.finished = finished_;
    result.refused = refused_;
    result.failed = failed_;
    result.generated_tokens = generated_tokens_;
  }

 private:
  // The next call, while there is to be one.
  void Next() {
    std::uint64_t number = 0;
    {
      MutexLock lock(mu_);
      if (stopping_) return;
      number = next_number_++;
      ++open_;
    }
    Send(number);
  }

  void Send(std::uint64_t number) {
    const std::size_t connection = number % stubs_.size();
    calls_.Start(
        *stubs_[connection], MakeRequest(shape_, /*seed=*/1, number),
        {.on_tokens = [this](std::int64_t tokens) { generated_tokens_ += tokens; },
         .on_end = [this, number, connection](
                       const grpc::Status& status) { End(number, connection, status); }});
  }

  void End(std::uint64_t number, std::size_t connection, const grpc::Status& status) {
    if (const auto delay = RetryDelay(status); delay.has_value()) {
      MutexLock lock(mu_);
      ++refused_;
      timetable_.At(Clock::now() + *delay, [this, number] { Send(number); });
      return;
    }
    // When all stop, the timetable may drop it: Next would do nothing.
    if (status.ok()) {
      Next();
    } else {
      timetable_.At(Clock::now() + kPauseAfterFailure, [this] { Next(); });
    }
    MutexLock lock(mu_);
    if (status.ok()) {
      ++finished_;
    } else {
      ++failed_[StatusCodeName(status.error_code())];
    }
    if (calls_on_[connection]++ == 0) ++num_used_;
    --open_;
    changed_.NotifyAll();
  }

  const ConnectionsLoad load_;
  const RequestShape shape_;
  const TellProgress& tell_;
  std::vector<std::unique_ptr<v1::GenerationService::Stub>> stubs_;

  std::atomic<std::int64_t> generated_tokens_ = 0;
  Mutex mu_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::uint64_t next_number_ ABSL_GUARDED_BY(mu_) = 0;
  std::int64_t open_ ABSL_GUARDED_BY(mu_) = 0;  // calls, those that wait included
  std::vector<std::int64_t> calls_on_ ABSL_GUARDED_BY(mu_);  // that have ended
  std::size_t num_used_ ABSL_GUARDED_BY(mu_) = 0;
  std::int64_t finished_ ABSL_GUARDED_BY(mu_) = 0;
  std::int64_t refused_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, std::int64_t> failed_ ABSL_GUARDED_BY(mu_);

  // Last: their threads use all of the above.
  CallGroup calls_;
  Timetable timetable_;
};

}  // namespace

absl::StatusOr<ConnectionsResult> RunConnections(const ConnectionsLoad& load,
                                                 const ConnectionFlags& connection,
                                                 const TellProgress& tell) {
  const absl::Status status = CheckConnection(connection);
  if (!status.ok()) return status;
  const Clock::time_point start = Clock::now();
  absl::StatusOr<Channels> channels = Opening(load.connections, connection).Run();
  if (!channels.ok()) return channels.status();
  const Clock::time_point opened = Clock::now();
  tell("all connections are open");

  ConnectionsResult result;
  result.opened = std::ssize(*channels);
  result.open_seconds = std::chrono::duration<double>(opened - start).count();
  const absl::StatusOr<std::int32_t> vocab_size =
      VocabularySize(*v1::GenerationService::NewStub(channels->front()));
  if (!vocab_size.ok()) return vocab_size.status();
  Streams streams(load,
                  {.prompt_tokens = load.prompt_tokens,
                   .max_tokens = load.max_tokens,
                   .vocab_size = *vocab_size},
                  *channels, tell);
  streams.Run();
  streams.AddTo(result);
  tell("the streams have ended");
  for (const auto& channel : *channels) {
    if (channel->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_READY) {
      ++result.open_at_end;
    }
  }
  return result;
}

}  // namespace goldfinch
