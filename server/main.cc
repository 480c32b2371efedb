// goldfinch-server: loads a model directory and serves it until it is told to stop.
//
// The one place that knows the real engine and the server together. A mistake of the
// operator is one line on stderr and exit code 2 where it is on the command line, else 1.
// SIGTERM and SIGINT drain (see Server::Shutdown) and exit 0; a second one ends the
// patience; a third one is the system's own. SIGHUP reads the tenants file again.
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/host_bytes.h"
#include "engine/model/dtype_names.h"
#include "engine/model_engine.h"
#include "engine/sync/mutex.h"
#include "scheduler/clock.h"
#include "server/accept_guard.h"
#include "server/command_line.h"
#include "server/file_limit.h"
#include "server/flags.h"
#include "server/log.h"
#include "server/memory_guard.h"
#include "server/memory_limit.h"
#include "server/metrics_address.h"
#include "server/server.h"
#include "server/server_credentials.h"
#include "server/serving_context.h"
#include "server/tenants/tenant_directory.h"
#include "server/text/vocabulary.h"
#include "server/version.h"
#include "sessions/open_store.h"
#include "sessions/snapshot_key.h"

namespace goldfinch {
namespace {

// Leaves something to what a process takes that it does not see as its own.
constexpr double kMemoryShare = 0.95;

std::int64_t MaxMemory(const ServerFlags& flags) {
  if (flags.max_memory_bytes > 0) return flags.max_memory_bytes;
  return static_cast<std::int64_t>(kMemoryShare * static_cast<double>(MemoryLimit()));
}

ModelEngineOptions EngineOptions(const ServerFlags& flags, std::int64_t max_memory) {
  ModelEngineOptions options;
  options.model_dir = flags.model;
  options.compute_type = ParseComputeDtype(flags.compute_dtype);
  options.weight_storage = ParseStorageDtype(flags.weight_dtype).value();
  options.cache_storage = ParseStorageDtype(flags.cache_dtype).value();
  options.backend = {.kind = flags.backend,
                     .device = static_cast<std::int32_t>(flags.device),
                     .cuda_graphs = flags.cuda_graphs,
                     .cuda_overlap = flags.cuda_overlap,
                     .cublas = flags.cublas,
                     .batch_invariant = flags.batch_invariant,
                     .cpu_isa = flags.cpu_isa,
                     .num_threads = static_cast<std::int32_t>(flags.threads),
                     .pin_threads = flags.pin_threads == "auto"};
  options.run_ahead = flags.run_ahead;
  options.cache_bytes = flags.cache_bytes;
  options.cache_share = static_cast<double>(flags.cache_percent) / 100.0;
  options.host_bytes = max_memory - MemoryTaken();
  options.expanded_bytes = flags.expanded_bytes;
  options.vocab_table = flags.vocab_table;
  options.max_sequences = static_cast<std::int32_t>(flags.max_sequences);
  options.max_step_tokens = static_cast<std::int32_t>(flags.step_tokens);
  options.page_tokens = static_cast<std::int32_t>(flags.page_tokens);
  return options;
}

std::string ModelName(const ServerFlags& flags) {
  if (!flags.model_name.empty()) return flags.model_name;
  // lexically_normal leaves "dir/" with an empty last part.
  std::filesystem::path path = std::filesystem::path(flags.model).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

TlsFiles TlsFilesOf(const ServerFlags& flags) {
  return {flags.tls_cert, flags.tls_key, flags.tls_client_ca};
}

ServerOptions OptionsOf(const ServerFlags& flags, const ModelEngine& engine) {
  ServerOptions options;
  options.build = kBuild;
  options.listen = flags.listen;
  options.metrics = flags.metrics;
  options.admin = flags.admin_listen;
  options.tls = TlsFilesOf(flags);
  options.reflection = flags.reflection;
  options.connections = {
      .max_message_bytes = flags.max_message_bytes,
      .max_metadata_bytes = flags.max_metadata_bytes,
      .max_streams = flags.max_streams_per_connection,
      .max_age_seconds = flags.max_connection_age_seconds,
      .max_age_grace_seconds = flags.max_connection_age_grace_seconds,
      .min_ping_interval_seconds = flags.min_ping_interval_seconds,
      .max_ping_strikes = flags.max_ping_strikes,
      .memory_bytes = flags.grpc_memory_bytes,
  };
  options.default_max_tokens = flags.default_max_tokens;
  options.scheduler = {
      .step_tokens = engine.info().step_tokens,
      .step_time = std::chrono::milliseconds(flags.step_milliseconds),
      .max_context_tokens = flags.max_context_tokens,
      .max_queued_requests = flags.max_queued_requests,
      .max_queued_tokens = flags.max_queued_tokens,
      .stream_buffer_tokens = flags.stream_buffer_tokens,
      .slow_reader = std::chrono::seconds(flags.slow_reader_seconds),
      .max_queue_time = std::chrono::seconds(flags.max_queue_seconds),
      .aside_bytes = flags.aside_bytes,
      .prefix_cache_bytes = flags.prefix_cache_bytes,
      .prefix_interval_tokens = flags.prefix_interval_tokens,
  };
  const ModelConfig& config = engine.config();
  options.model = {
      .name = ModelName(flags),
      .num_layers = config.n_layer,
      .num_gold_layers = config.num_gold(),
      .embedding_size = config.n_embd,
      .num_parameters = engine.num_parameters(),
      .cache_bytes_per_token = engine.cache_bytes_per_token(),
      .state_bytes_per_sequence = engine.state_bytes_per_sequence(),
      .training_context_tokens = config.ctx_len,
  };
  return options;
}

SessionOptions SessionOptionsOf(const ServerFlags& flags) {
  SessionOptions options;
  options.max_sessions = flags.max_sessions;
  options.host_bytes = flags.session_bytes;
  options.idle_to_rest = std::chrono::seconds(flags.session_idle_to_rest);
  options.idle_to_park = std::chrono::seconds(flags.session_idle_to_park);
  options.time_to_live = std::chrono::seconds(flags.session_ttl);
  options.lease = std::chrono::seconds(flags.session_lease_seconds);
  return options;
}

// Null when there is none.
absl::StatusOr<std::unique_ptr<SnapshotStore>> StoreOf(const ServerFlags& flags) {
  if (flags.session_store.empty()) return nullptr;
  return OpenStore(flags.session_store,
                   {.lease = std::chrono::seconds(flags.session_lease_seconds),
                    .time_to_live = std::chrono::seconds(flags.session_ttl)});
}

// Null when everybody may call.
absl::StatusOr<std::unique_ptr<TenantDirectory>> TenantsOf(const ServerFlags& flags) {
  if (flags.tenants_file.empty()) return nullptr;
  return TenantDirectory::Load(flags.tenants_file);
}

// What the flags allow all parts together, should they all be full at once.
std::int64_t MostMemory(const ServerFlags& flags, const ModelEngine& engine) {
  const DeviceBytes& device = engine.info().device_bytes;
  const std::int64_t of_engine =
      engine.takes_host_memory()
          ? device.weights + device.cache + device.expanded + device.state + device.work
          : 0;
  return of_engine + flags.aside_bytes + flags.prefix_cache_bytes + flags.session_bytes +
         flags.grpc_memory_bytes + kMaxTransferBytes +
         SessionOptionsOf(flags).max_image_bytes;
}

// INVALID_ARGUMENT when there would never be room for a call; a warning when the parts
// may get in each other's way.
absl::Status CheckMemory(const ServerFlags& flags, std::int64_t limit,
                         const ModelEngine& engine) {
  const std::int64_t taken = MemoryTaken();
  if (taken >= limit) {
    return absl::InvalidArgumentError(absl::StrCat("the model alone takes ", taken,
                                                   " bytes of memory; ",
                                                   "--max_memory_bytes allows ", limit));
  }
  const std::int64_t most = MostMemory(flags, engine);
  if (most > limit) {
    LogWarning(
        absl::StrCat("the model, --cache_bytes, --expanded_bytes, --aside_bytes, "
                     "--prefix_cache_bytes, --session_bytes, --grpc_memory_bytes and "
                     "snapshots on their way may take ",
                     most, " bytes of memory; beyond ", limit, " calls are refused"));
  }
  return absl::OkStatus();
}

sigset_t SignalSet(std::initializer_list<int> numbers) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : numbers) sigaddset(&signals, number);
  return signals;
}

// What signals do to the server. Any thread.
class Stopper {
 public:
  // The first one drains, the second ends the patience, a third one kills. While there
  // is no server yet, there is nothing to finish.
  void OnSignal() {
    Server* server = nullptr;
    bool first = false;
    {
      const MutexLock lock(mu_);
      if (server_ == nullptr) {
        // Else whoever reads the log of a server that was too slow to start, for whatever
        // watches over it, finds nothing.
        if (!served_) LogInfo("told to stop while loading");
        std::_Exit(0);
      }
      first = ++signals_seen_ == 1;
      server = server_;
      told_ = true;
      changed_.NotifyAll();
    }
    // Without the lock: gRPC may run another call's handler on the way, and that one may
    // come to OnDrain.
    if (first) {
      server->BeginDrain();
    } else {
      server->HurryUp();
      const sigset_t stop = SignalSet({SIGTERM, SIGINT});
      pthread_sigmask(SIG_UNBLOCK, &stop, nullptr);
    }
    const MutexLock lock(mu_);
    told_ = false;
    changed_.NotifyAll();
  }

  // The server drains already; a signal is the first one all the same.
  void OnDrain() {
    MutexLock lock(mu_);
    drains_ = true;
    changed_.NotifyAll();
  }

  // Reads the tenants file again, or will once there is a server.
  void OnReload() {
    MutexLock lock(mu_);
    if (server_ == nullptr) {
      reload_ = true;
    } else {
      static_cast<void>(server_->ReloadTenants());  // it has told
    }
  }

  // Returns when the server is to stop.
  void WaitWith(Server& server) {
    MutexLock lock(mu_);
    server_ = &server;
    served_ = true;
    if (reload_) static_cast<void>(server.ReloadTenants());
    while (signals_seen_ == 0 && !drains_) changed_.Wait(mu_);
  }

  // The server is about to go.
  void Forget() {
    MutexLock lock(mu_);
    while (told_) changed_.Wait(mu_);
    server_ = nullptr;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  Server* server_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool served_ ABSL_GUARDED_BY(mu_) = false;  // there was a server
  bool told_ ABSL_GUARDED_BY(mu_) = false;    // the server, of a signal, just now
  int signals_seen_ ABSL_GUARDED_BY(mu_) = 0;
  bool drains_ ABSL_GUARDED_BY(mu_) = false;
  bool reload_ ABSL_GUARDED_BY(mu_) = false;  // while there is no server
};

// The log's line before what takes time. No more of the store than its kind: its address
// may have a password.
std::string Loading(const ServerFlags& flags) {
  const std::string& store = flags.session_store;
  const bool redis = store.starts_with("redis://") || store.starts_with("unix://");
  return absl::StrCat("loading ", flags.model, "; goldfinch ", kBuild, ", ",
                      store.empty() ? "no session store"
                      : redis       ? "sessions in a Redis"
                                    : "sessions in a directory");
}

// The log's line for a start: where, and what exactly is served.
std::string Serving(const ServerFlags& flags, const Server& server,
                    const EngineInfo& info, bool with_store) {
  const auto other = [](const char* what, int port) {
    return port == 0 ? std::string() : absl::StrCat(", ", what, " on port ", port);
  };
  return absl::StrCat(
      "serving on port ", server.port(), other("metrics", server.metrics_port()),
      other("admin", server.admin_port()), "; goldfinch ", kBuild, ", model ",
      flags.model, " (fingerprint ", info.model_fingerprint, ", numerics ",
      info.numerics_id, ", kernels ", info.kernels, "), ", info.num_pages, " pages of ",
      info.page_tokens, " tokens, ", info.num_slots, " sequences at once, ",
      with_store ? "with a session store" : "no session store");
}

absl::Status Serve(const ServerFlags& flags, Stopper& stopper) {
  // What can be wrong with the rest is found before a model is loaded.
  SessionOptions sessions = SessionOptionsOf(flags);
  if (!flags.snapshot_key_file.empty()) {
    absl::StatusOr<SnapshotKey> key = ReadSnapshotKey(flags.snapshot_key_file);
    if (!key.ok()) return key.status();
    sessions.key = *std::move(key);
  }
  absl::StatusOr<std::unique_ptr<TenantDirectory>> tenants = TenantsOf(flags);
  if (!tenants.ok()) return tenants.status();
  if (const auto tls = MakeServerCredentials(TlsFilesOf(flags)); !tls.ok()) {
    return tls.status();
  }
  const absl::Status metrics = CheckMetricsAddress(flags.metrics);
  if (!metrics.ok()) return metrics;
  // Both may take long, or the process along.
  LogInfo(Loading(flags));
  absl::StatusOr<std::unique_ptr<SnapshotStore>> store = StoreOf(flags);
  if (!store.ok()) return store.status();
  const std::int64_t max_memory = MaxMemory(flags);
  absl::StatusOr<std::unique_ptr<ModelEngine>> engine =
      ModelEngine::Create(EngineOptions(flags, max_memory));
  if (!engine.ok()) return engine.status();
  absl::StatusOr<std::unique_ptr<Vocabulary>> vocabulary =
      Vocabulary::Load((std::filesystem::path(flags.model) / "vocab.txt").string(),
                       (*engine)->info().vocab_size);
  if (!vocabulary.ok()) return vocabulary.status();
  const absl::Status fits = CheckMemory(flags, max_memory, **engine);
  if (!fits.ok()) return fits;
  const SteadyClock clock;
  MemoryGuard memory(max_memory, {.taken = MemoryTaken, .give_back = GiveBackMemory},
                     clock);
  ServerOptions options = OptionsOf(flags, **engine);
  options.memory = &memory;
  options.sessions = std::move(sessions);
  options.tenants = tenants->get();
  options.on_drain = [&stopper] { stopper.OnDrain(); };
  options.engine_is_lost = [&engine] { return (*engine)->lost(); };
  absl::StatusOr<std::unique_ptr<Server>> server =
      Server::Start(options, **engine, **vocabulary, clock, store->get());
  if (!server.ok()) return server.status();
  LogInfo(Serving(flags, **server, (*engine)->info(), *store != nullptr));
  if (const std::string& refused = (*engine)->info().refused; !refused.empty())
    LogWarning(absl::StrCat("the driver refused ", refused));
  stopper.WaitWith(**server);
  LogInfo(absl::StrCat("draining for at most ", flags.drain_seconds, " s"));
  (*server)->Shutdown(std::chrono::seconds(flags.drain_seconds));
  stopper.Forget();
  LogInfo("stopped");
  // Only a new process can have the device again.
  if ((*engine)->lost()) return absl::InternalError("the device failed");
  return absl::OkStatus();
}

// Serves on a thread of its own, so that this one can wait for signals meanwhile; the
// other wakes it with SIGUSR1 when it is done.
absl::Status ServeWithSignals(const ServerFlags& flags) {
  sigset_t signals = SignalSet({SIGTERM, SIGINT, SIGUSR1});
  // Else it is the system's: a terminal that is closed takes the server along.
  if (!flags.tenants_file.empty()) sigaddset(&signals, SIGHUP);
  // Before any thread exists: all inherit it, and only sigwait sees the signals.
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a scrape or a log reader that goes away

  Stopper stopper;
  absl::Status status;
  std::atomic<bool> done = false;
  std::thread server([&, waiter = pthread_self()] {
    status = Serve(flags, stopper);
    done = true;
    pthread_kill(waiter, SIGUSR1);
  });
  for (int number = 0; sigwait(&signals, &number) == 0 && !done;) {
    if (number == SIGHUP) {
      stopper.OnReload();
    } else if (number != SIGUSR1) {
      stopper.OnSignal();
    }
  }
  server.join();
  return status;
}

// gRPC and Protocol Buffers log what they meet to stderr as they please; here they are
// two voices of the log. gRPC's lines name addresses, which only who asks for all details
// wants to see.
void LogLibrary(gpr_log_func_args* args) { LogDebug(args->message); }
void LogProtobuf(google::protobuf::LogLevel, const char*, int,
                 const std::string& message) {
  LogDebug(message);
}

int Main(int argc, char** argv) {
  ReuseLargeBuffers();
  RaiseFileLimit();
  GuardAccept();
  gpr_set_log_function(LogLibrary);
  google::protobuf::SetLogHandler(LogProtobuf);
  absl::StatusOr<CommandLine> line = ParseServerFlags(argc, argv);
  absl::Status status = line.status();
  if (status.ok() && !line->print.empty()) {
    std::fputs(line->print.c_str(), stdout);
    return 0;
  }
  if (status.ok()) {
    SetLogLevel(line->flags.log_level);
    status = ServeWithSignals(line->flags);
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "goldfinch-server: %s\n", std::string(status.message()).c_str());
  return line.ok() ? 1 : kUsageExit;
}

}  // namespace
}  // namespace goldfinch

int main(int argc, char** argv) { return goldfinch::Main(argc, argv); }
