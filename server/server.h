// The server in one piece: scheduler, service, health, reflection and metrics around an
// Engine and a Vocabulary, on a port.
//
// Life: Start runs the model once through a scheduler (so SERVING means that it answers),
// then opens the port. BeginDrain answers NOT_SERVING and refuses new calls at once;
// Shutdown lets running calls finish until a deadline, ends the rest with UNAVAILABLE
// and closes. Every accepted call gets a status. The admin service goes last.
//
// With a store, what still runs when half of that time is over is interrupted and parked,
// like every session, so that clients resume it elsewhere.
//
// Threads: any, but Shutdown and the destructor by one.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "scheduler/clock.h"
#include "scheduler/scheduler.h"
#include "server/connection_limits.h"
#include "server/memory_guard.h"
#include "server/model_info.h"
#include "server/server_credentials.h"
#include "server/tenants/tenant_directory.h"
#include "server/text/vocabulary.h"
#include "server/transfer_room.h"
#include "server/version.h"
#include "sessions/session_manager.h"
#include "sessions/store.h"

namespace goldfinch {

struct ServerOptions {
  std::string build = kVersion;            // what metrics tell of the program
  std::string listen = "127.0.0.1:50051";  // HOST:PORT; port 0 takes a free one
  std::string metrics = "127.0.0.1:9464";  // as `listen`; empty: none
  std::string admin;                       // of AdminService; likewise
  // The admin service was told to drain, or the engine is lost: BeginDrain is done,
  // Shutdown is to follow. Any thread.
  std::function<void()> on_drain;
  // Whether the engine's device has failed for good. Asked on the step thread after an
  // error of the engine; if so, the server drains by itself, as if it had been told to.
  // Empty: it never has.
  std::function<bool()> engine_is_lost;
  TlsFiles tls;
  ConnectionLimits connections;
  bool reflection = true;
  // Outlives the server. Null: whoever calls is kAnonymousTenant.
  TenantDirectory* tenants = nullptr;
  MemoryGuard* memory = nullptr;  // likewise. Null: memory is no reason to refuse
  // Of snapshots on their way and large answers; more where a snapshot may have more.
  std::int64_t transfer_bytes = kMaxTransferBytes;
  std::int64_t default_max_tokens = 256;
  SchedulerOptions scheduler;
  SessionOptions sessions;  // max_context_tokens is the scheduler's
  ModelInfo model;
};

class Server {
 public:
  // `engine`, `vocabulary`, `clock` and `store` (null: sessions live in memory only)
  // outlive the server. An error is one line that can
  // be shown: a port in use, a model that does not answer.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       Engine& engine,
                                                       const Vocabulary& vocabulary,
                                                       const Clock& clock,
                                                       SnapshotStore* store = nullptr);
  ~Server();  // as Shutdown with no patience
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;
  int metrics_port() const;  // 0: none
  int admin_port() const;    // 0: none

  // What a scrape would read now.
  std::string MetricsText() const;

  // Reads the tenants file again. Calls that run keep their tenant. An error is logged,
  // and all is as it was.
  absl::Status ReloadTenants();

  // Idempotent; at once.
  void BeginDrain();

  // BeginDrain, then waits for running calls until `patience` has passed or HurryUp is
  // called; with a store, for half of it, the rest being for parking. Idempotent.
  void Shutdown(std::chrono::nanoseconds patience);

  // Ends the patience of Shutdown.
  void HurryUp();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace goldfinch
