// The command line of goldfinch-server: what it may say, and what it means.
//
// Every flag is checked against bounds here, before anything is loaded, so a mistake is
// one line about the flag and not a failure later.
//
// Threads: a pure function.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace goldfinch {

struct ServerFlags {
  std::string model;
  std::string model_name;  // empty: the name of the model's directory
  std::string listen = "127.0.0.1:50051";
  std::string metrics = "127.0.0.1:9464";
  std::string admin_listen;  // empty: no admin service
  std::string tenants_file;  // empty: none, everybody is one tenant
  bool insecure_allow_anonymous = false;
  bool reflection = true;
  std::string tls_cert;  // empty: no TLS
  std::string tls_key;
  std::string tls_client_ca;  // empty: clients need no certificate
  std::int64_t max_message_bytes = std::int64_t{32} << 20;
  std::int64_t max_metadata_bytes = 16384;
  std::int64_t max_streams_per_connection = 256;
  std::int64_t max_connection_age_seconds = 3600;
  std::int64_t max_connection_age_grace_seconds = 3600;
  std::int64_t min_ping_interval_seconds = 60;
  std::int64_t max_ping_strikes = 2;
  std::int64_t grpc_memory_bytes = std::int64_t{1} << 30;
  std::int64_t max_memory_bytes = 0;  // 0, when not given: by the machine
  std::string compute_dtype;          // empty: as the weights are stored
  std::string weight_dtype = "auto";
  std::string cache_dtype = "auto";
  std::string backend = "cpu";
  std::int64_t device = 0;
  bool cuda_graphs = true;
  bool cuda_overlap = true;
  bool cublas = true;
  bool run_ahead = true;
  bool batch_invariant = true;
  std::string cpu_isa = "auto";
  std::string pin_threads = "auto";
  bool vocab_table = false;
  std::int64_t threads = 0;  // 0, when not given: one a CPU it may use
  std::int64_t cache_bytes = std::int64_t{1} << 30;
  std::int64_t cache_percent = 0;  // of what is left; above 0 instead of cache_bytes
  std::int64_t expanded_bytes = std::int64_t{1} << 30;
  std::int64_t max_sequences = 64;
  std::int64_t page_tokens = 64;
  std::int64_t step_tokens = 0;  // 0, when not given: what suits the backend
  std::int64_t step_milliseconds = 50;
  std::int64_t max_context_tokens = 1048576;
  std::int64_t default_max_tokens = 256;
  std::int64_t max_queued_requests = 1024;
  std::int64_t max_queued_tokens = 16777216;
  std::int64_t stream_buffer_tokens = 1024;
  std::int64_t max_queue_seconds = 300;
  std::int64_t slow_reader_seconds = 30;
  std::int64_t drain_seconds = 30;
  std::int64_t aside_bytes = std::int64_t{1} << 30;
  std::int64_t prefix_cache_bytes = std::int64_t{1} << 30;
  std::int64_t prefix_interval_tokens = 16384;
  std::string session_store;  // empty: none
  std::int64_t session_bytes = std::int64_t{4} << 30;
  std::int64_t max_sessions = 100000;
  std::int64_t session_idle_to_rest = 0;
  std::int64_t session_idle_to_park = 0;
  std::int64_t session_ttl = 604800;
  std::int64_t session_lease_seconds = 30;
  std::string snapshot_key_file;  // empty: none
  std::string log_level = "info";
};

// What a command line asks for.
struct CommandLine {
  ServerFlags flags;
  std::string print;  // help or version: print it and exit 0; empty: serve
};

// INVALID_ARGUMENT with one line: the flag, its value and what it must be.
absl::StatusOr<CommandLine> ParseServerFlags(int argc, const char* const* argv);

}  // namespace goldfinch
