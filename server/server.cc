#include "server/server.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/sync/mutex.h"
#include "server/admin_service.h"
#include "server/generation_service.h"
#include "server/log.h"
#include "server/loopback.h"
#include "server/metrics.h"
#include "server/reflection_service.h"
#include "server/session_service.h"
#include "server/stuck_call_sweep.h"
#include "server/version.h"

namespace goldfinch {
namespace {

// What calls get to hear their status, and what is left of connections, after the end.
constexpr auto kLastWords = std::chrono::seconds(2);

constexpr auto kWarmupLimit = std::chrono::minutes(10);

v1::GetModelResponse DescribeModel(const ServerOptions& options,
                                   const EngineInfo& engine) {
  v1::GetModelResponse out;
  out.set_name(options.model.name);
  out.set_fingerprint(engine.model_fingerprint);
  out.set_numerics_id(engine.numerics_id);
  out.set_num_layers(options.model.num_layers);
  out.set_num_gold_layers(options.model.num_gold_layers);
  out.set_embedding_size(options.model.embedding_size);
  out.set_vocab_size(engine.vocab_size);
  out.set_num_parameters(options.model.num_parameters);
  out.set_compute_dtype(engine.compute_dtype);
  out.set_weight_dtype(engine.weight_dtype);
  out.set_cache_dtype(engine.cache_dtype);
  out.set_cache_bytes_per_token(options.model.cache_bytes_per_token);
  out.set_state_bytes_per_sequence(options.model.state_bytes_per_sequence);
  out.set_training_context_tokens(options.model.training_context_tokens);
  out.set_max_context_tokens(options.scheduler.max_context_tokens);
  out.set_default_max_tokens(options.default_max_tokens);
  out.set_max_sequences(engine.num_slots);
  out.set_num_pages(engine.num_pages);
  out.set_page_tokens(engine.page_tokens);
  out.set_server_version(kVersion);
  return out;
}

MetricsInfo DescribeForMetrics(const ServerOptions& options, const EngineInfo& engine) {
  MetricsInfo info;
  info.version = options.build;
  info.model_name = options.model.name;
  info.model_fingerprint = engine.model_fingerprint;
  info.compute_dtype = engine.compute_dtype;
  info.numerics_id = engine.numerics_id;
  info.kernels = engine.kernels;
  info.num_pages = engine.num_pages;
  info.num_slots = engine.num_slots;
  info.expanded_pages = engine.expanded_pages;
  info.prefix_cache_bytes = options.scheduler.prefix_cache_bytes;
  info.device_bytes = engine.device_bytes;
  return info;
}

// One short request through a scheduler of its own, which metrics do not see.
absl::Status WarmUp(Engine& engine, const SchedulerOptions& options, const Clock& clock) {
  SchedulerObserver nobody;
  Scheduler scheduler(engine, options, clock, nobody);
  scheduler.Start();
  Request request;
  request.prompt = {kEndOfText};
  request.max_tokens = 1;
  request.sampling.temperature = 0;
  request.sampling.num_logprobs = 0;
  absl::StatusOr<Scheduler::Submission> submission = scheduler.Submit(std::move(request));
  if (!submission.ok()) return submission.status();
  const auto deadline = std::chrono::steady_clock::now() + kWarmupLimit;
  while (std::chrono::steady_clock::now() < deadline) {
    const TokenStream::Batch batch = submission->stream->WaitAndTake(deadline);
    // Without a number among the logits every answer would be empty, and called one.
    for (const StreamEvent& event : batch.events) {
      if (event.kind == StreamEvent::Kind::kToken &&
          !std::isfinite(event.sample.logprob)) {
        return absl::InternalError("its logits are not finite numbers");
      }
    }
    if (batch.end.has_value()) return *batch.end;
  }
  return absl::DeadlineExceededError("it did not answer in time");
}

SessionOptions SessionOptionsOf(const ServerOptions& options,
                                const TenantDirectory& tenants) {
  SessionOptions sessions = options.sessions;
  sessions.max_context_tokens = options.scheduler.max_context_tokens;
  sessions.quota_of = [&tenants](const std::string& name) {
    return tenants.QuotaOf(name);
  };
  sessions.warn = [](const std::string& message) { LogWarning(message); };
  sessions.note = [](const std::string& message) { LogInfo(message); };
  return sessions;
}

std::int64_t RoomForTransfers(const ServerOptions& options, const EngineInfo& engine) {
  return std::max(MaxSnapshotBytes(engine, options.scheduler.max_context_tokens),
                  options.transfer_bytes);
}

ServingLimits LimitsOf(const ServerOptions& options, const Vocabulary& vocabulary,
                       const Tokenizer& tokenizer) {
  return {.vocabulary = vocabulary,
          .tokenizer = tokenizer,
          .max_context_tokens = options.scheduler.max_context_tokens,
          .default_max_tokens = options.default_max_tokens,
          .max_message_bytes = options.connections.max_message_bytes};
}

// What whoever reaches the port should know.
void WarnOfOpenness(const std::string& address, const ServerOptions& options,
                    bool anonymous) {
  if (IsLoopback(address)) return;
  const bool plain = options.tls.certificate.empty();
  if (!anonymous && !plain) return;
  LogWarning(absl::StrCat("listening on ", address, " without ",
                          anonymous ? "authentication" : "",
                          anonymous && plain ? " or " : "", plain ? "encryption" : ""));
}

absl::Status CannotListen(const std::string& address) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address,
                   ": the port is in use, or the address is not one of this machine"));
}

}  // namespace

// Members are destroyed from the last to the first: gRPC, then the scheduler, then what
// they use.
class Server::Impl {
 public:
  Impl(const ServerOptions& options, Engine& engine, const Vocabulary& vocabulary,
       const Clock& clock, SnapshotStore* store)
      : tenants_(options.tenants != nullptr ? *options.tenants : *everybody_),
        tokenizer_(vocabulary),
        metrics_(std::make_shared<Metrics>(DescribeForMetrics(options, engine.info()))),
        scheduler_(engine, options.scheduler, clock, *metrics_),
        transfers_(RoomForTransfers(options, engine.info())),
        sessions_(scheduler_, engine, store, clock, SessionOptionsOf(options, tenants_)),
        serving_{.scheduler = scheduler_,
                 .sessions = sessions_,
                 .delivery = delivery_,
                 .calls = calls_,
                 .counts = metrics_->call_counts(),
                 .clock = clock,
                 .observer = *metrics_,
                 .tenants = tenants_,
                 .memory = options.memory,
                 .limits = LimitsOf(options, vocabulary, tokenizer_),
                 .transfers = transfers_},
        service_(serving_, DescribeModel(options, engine.info())),
        session_service_(serving_),
        admin_service_(serving_, ActionsOf(options)),
        sweep_(calls_, clock, options.scheduler.slow_reader) {
    metrics_->Watch(sessions_.stats(), tenants_, calls_, options.memory);
    if (options.engine_is_lost) {
      metrics_->WhenEngineFails(
          [this, is_lost = options.engine_is_lost, on_drain = options.on_drain] {
            if (!is_lost()) return;
            BeginDrain();
            if (on_drain) on_drain();
          });
    }
  }
  ~Impl() { metrics_->Forget(); }

  absl::Status Listen(const ServerOptions& options);
  absl::StatusOr<std::int32_t> ReloadTenants();

  void BeginDrain() {
    calls_.Close();
    grpc::Server* servers[2];
    {
      const MutexLock lock(open_mu_);
      servers[0] = server_.get();
      servers[1] = admin_server_.get();
    }
    // Without the lock: gRPC may run another call's handler on the way, which may drain.
    for (grpc::Server* server : servers) {
      if (server != nullptr) server->GetHealthCheckService()->SetServingStatus(false);
    }
  }
  void Shutdown(std::chrono::nanoseconds patience);
  void ParkEverything(std::chrono::steady_clock::time_point deadline,
                      std::chrono::nanoseconds patience);
  void HurryUp() { calls_.Interrupt(); }

  int port() const { return port_; }
  int admin_port() const { return admin_port_; }
  int metrics_port() const { return endpoint_ == nullptr ? 0 : endpoint_->port(); }
  std::string MetricsText() const { return metrics_->Text(); }

 private:
  AdminActions ActionsOf(const ServerOptions& options);
  // Opens `address` for `services`. Null when that cannot be.
  std::unique_ptr<grpc::Server> Open(const ServerOptions& options,
                                     const std::string& address,
                                     std::initializer_list<grpc::Service*> services,
                                     ReflectionService& reflection, int& port) const;

  const std::unique_ptr<TenantDirectory> everybody_ = TenantDirectory::Anonymous();
  TenantDirectory& tenants_;
  const Tokenizer tokenizer_;
  const std::shared_ptr<Metrics> metrics_;  // shared with the endpoint's scrapes
  OpenCalls calls_;
  DeliveryQueue delivery_;
  Scheduler scheduler_;
  TransferRoom transfers_;  // calls that sessions_ still holds give theirs back
  SessionManager sessions_;
  const ServingContext serving_;
  GenerationService service_;
  SessionService session_service_;
  AdminService admin_service_;
  ReflectionService reflection_{{v1::GenerationService::service_full_name(),
                                 v1::SessionService::service_full_name()}};
  ReflectionService admin_reflection_{{v1::AdminService::service_full_name()}};
  StuckCallSweep sweep_;
  std::unique_ptr<MetricsEndpoint> endpoint_;
  int port_ = 0;
  int admin_port_ = 0;
  bool parked_ = false;
  std::shared_ptr<grpc::ServerCredentials> credentials_;  // as gRPC made them
  Mutex open_mu_;  // for those who may call before Listen has returned
  std::unique_ptr<grpc::Server> admin_server_;  // null: none
  std::unique_ptr<grpc::Server> server_;
};

AdminActions Server::Impl::ActionsOf(const ServerOptions& options) {
  return {.drain =
              [this, on_drain = options.on_drain](bool hurry) {
                BeginDrain();
                if (hurry) HurryUp();
                if (on_drain) on_drain();
              },
          .reload = [this] { return ReloadTenants(); }};
}

std::unique_ptr<grpc::Server> Server::Impl::Open(
    const ServerOptions& options, const std::string& address,
    std::initializer_list<grpc::Service*> services, ReflectionService& reflection,
    int& port) const {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, credentials_, &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (options.reflection) builder.RegisterService(&reflection);
  Limit(options.connections, builder);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  return port == 0 ? nullptr : std::move(server);
}

absl::Status Server::Impl::Listen(const ServerOptions& options) {
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> credentials =
      MakeServerCredentials(options.tls);
  if (!credentials.ok()) return credentials.status();
  credentials_ = *std::move(credentials);
  if (!options.metrics.empty()) {
    absl::StatusOr<std::unique_ptr<MetricsEndpoint>> endpoint =
        MetricsEndpoint::Start(options.metrics, metrics_);
    if (!endpoint.ok()) return endpoint.status();
    endpoint_ = *std::move(endpoint);
  }
  scheduler_.Start();

  grpc::EnableDefaultHealthCheckService(true);
  if (!options.admin.empty()) {
    auto server =
        Open(options, options.admin, {&admin_service_}, admin_reflection_, admin_port_);
    if (server == nullptr) return CannotListen(options.admin);
    {
      const MutexLock lock(open_mu_);
      admin_server_ = std::move(server);
    }
    WarnOfOpenness(options.admin, options, tenants_.anonymous());
  }
  auto server =
      Open(options, options.listen, {&service_, &session_service_}, reflection_, port_);
  if (server == nullptr) return CannotListen(options.listen);
  {
    const MutexLock lock(open_mu_);
    server_ = std::move(server);
  }
  for (const char* service : {v1::GenerationService::service_full_name(),
                              v1::SessionService::service_full_name()}) {
    server_->GetHealthCheckService()->SetServingStatus(service, true);
  }
  if (calls_.closed()) BeginDrain();  // who began it meanwhile was overruled just now
  WarnOfOpenness(options.listen, options, tenants_.anonymous());
  return absl::OkStatus();
}

absl::StatusOr<std::int32_t> Server::Impl::ReloadTenants() {
  const absl::Status status = tenants_.Reload();
  if (!status.ok()) {
    LogWarning(absl::StrCat("the tenants stay as they were: ", status.message()));
    // The log may name files; who calls is told no more than that it went wrong.
    return absl::IsFailedPrecondition(status)
               ? status
               : absl::InvalidArgumentError(
                     "the tenants file is bad and all is as it was; the log says why");
  }
  const auto num_tenants = static_cast<std::int32_t>(tenants_.tenants().size());
  LogInfo(absl::StrCat(num_tenants, " tenants from now on"));
  return num_tenants;
}

void Server::Impl::Shutdown(std::chrono::nanoseconds patience) {
  BeginDrain();
  const auto deadline = std::chrono::steady_clock::now() + patience;
  if (sessions_.has_store()) {
    ParkEverything(deadline, patience);
  } else if (!calls_.WaitUntilEmpty(deadline)) {
    LogWarning("running calls are ended with UNAVAILABLE");
  }
  scheduler_.Shutdown();
  // Takes leave of connections; a call whose client reads nothing is broken off.
  const auto last = std::chrono::system_clock::now() + kLastWords;  // of both together
  for (grpc::Server* server : {server_.get(), admin_server_.get()}) {
    if (server == nullptr) continue;
    server->Shutdown(last);
    server->Wait();
  }
}

void Server::Impl::ParkEverything(std::chrono::steady_clock::time_point deadline,
                                  std::chrono::nanoseconds patience) {
  if (std::exchange(parked_, true)) return;
  // Half of the time for calls to end by themselves, a quarter to park what is idle, an
  // eighth for the calls that are then interrupted, a sixteenth for those cut off; the
  // rest is for parks that have to be tried again.
  const auto calls_until = deadline - patience / 2;
  const auto idle_until = deadline - patience / 4;
  const auto interrupted_until = deadline - patience / 8;
  const auto cut_off_until = deadline - patience / 16;
  calls_.WaitUntilEmpty(calls_until);
  scheduler_.InterruptAll();
  // What is idle does not wait for a call that does not end; calls end when what they ran
  // is parked.
  sessions_.ParkAll(idle_until);
  calls_.WaitUntilEmpty(interrupted_until, OpenCalls::Waiting::kAnyway);
  // Who takes nothing gets no status; what his call ran is parked all the same.
  calls_.CutOffStuck(serving_.clock.Now());
  if (!calls_.WaitUntilEmpty(cut_off_until, OpenCalls::Waiting::kAnyway)) {
    LogWarning("running calls are ended with UNAVAILABLE");
  }
  const std::int64_t left = sessions_.ParkAll(deadline);
  if (left > 0) {
    LogWarning(absl::StrCat(left, " sessions could not be parked and are lost"));
  }
  // One that does not answer would hold up calls, and the end.
  sessions_.LetGoOfStore(deadline);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      Engine& engine,
                                                      const Vocabulary& vocabulary,
                                                      const Clock& clock,
                                                      SnapshotStore* store) {
  // Before the port opens: gRPC's health service is SERVING from its first moment.
  const absl::Status warm = WarmUp(engine, options.scheduler, clock);
  if (!warm.ok()) {
    return absl::Status(warm.code(), absl::StrCat("the model failed its first request: ",
                                                  warm.message()));
  }
  auto impl = std::make_unique<Impl>(options, engine, vocabulary, clock, store);
  absl::Status status = impl->Listen(options);
  if (!status.ok()) return status;
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { impl_->Shutdown(std::chrono::nanoseconds(0)); }

int Server::port() const { return impl_->port(); }
int Server::admin_port() const { return impl_->admin_port(); }
int Server::metrics_port() const { return impl_->metrics_port(); }
std::string Server::MetricsText() const { return impl_->MetricsText(); }
absl::Status Server::ReloadTenants() { return impl_->ReloadTenants().status(); }
void Server::BeginDrain() { impl_->BeginDrain(); }
void Server::Shutdown(std::chrono::nanoseconds patience) { impl_->Shutdown(patience); }
void Server::HurryUp() { impl_->HurryUp(); }

}  // namespace goldfinch
