#include "server/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/kernels/cpu/tables.h"
#include "engine/model/dtype_names.h"
#include "engine/model_engine.h"
#include "server/command_line.h"
#include "server/loopback.h"
#include "server/version.h"

namespace goldfinch {
namespace {

struct Bound {
  const char* flag;
  std::int64_t value;
  std::int64_t low;
  std::int64_t high;
};

constexpr std::int64_t kMebi = std::int64_t{1} << 20;
constexpr std::int64_t kTebi = std::int64_t{1} << 40;
constexpr std::int64_t kDaySeconds = 86400;
constexpr std::int64_t kMaxMessageBytes = 1 << 30;
constexpr std::int64_t kYearSeconds = 366 * kDaySeconds;
// gRPC counts milliseconds in an int.
constexpr std::int64_t kMaxMillisSeconds = 20 * kDaySeconds;

// `value` of a flag that was given; one that was not has a value without a bound.
struct IfGiven {
  const CLI::App& app;
  std::int64_t operator()(const char* flag, std::int64_t value, std::int64_t low) const {
    return app.get_option(flag)->count() > 0 ? value : low;
  }
};

absl::Status CheckBounds(const ServerFlags& flags, const IfGiven& if_given) {
  const std::vector<Bound> bounds = {
      {"--device", flags.device, 0, 1024},
      {"--threads", if_given("--threads", flags.threads, 1), 1, 1024},
      {"--cache_bytes", flags.cache_bytes, kMebi, 16 * kTebi},
      {"--expanded_bytes", flags.expanded_bytes, 0, 16 * kTebi},
      {"--max_sequences", flags.max_sequences, 1, 65536},
      {"--page_tokens", flags.page_tokens, 1, 256},
      {"--step_tokens", if_given("--step_tokens", flags.step_tokens, 1), 1, 1048576},
      {"--step_milliseconds", flags.step_milliseconds, 0, 60000},
      {"--max_context_tokens", flags.max_context_tokens, 2, std::int64_t{1} << 30},
      {"--default_max_tokens", flags.default_max_tokens, 1, flags.max_context_tokens},
      {"--max_queued_requests", flags.max_queued_requests, 1, 1000000},
      {"--max_queued_tokens", flags.max_queued_tokens, 1, kTebi},
      {"--stream_buffer_tokens", flags.stream_buffer_tokens, 1, 1048576},
      {"--max_queue_seconds", flags.max_queue_seconds, 1, kDaySeconds},
      {"--slow_reader_seconds", flags.slow_reader_seconds, 1, kDaySeconds},
      {"--drain_seconds", flags.drain_seconds, 0, kDaySeconds},
      {"--aside_bytes", flags.aside_bytes, 0, 16 * kTebi},
      {"--prefix_cache_bytes", flags.prefix_cache_bytes, 0, 16 * kTebi},
      {"--prefix_interval_tokens", flags.prefix_interval_tokens, 64, 1 << 30},
      {"--session_bytes", flags.session_bytes, kMebi, 16 * kTebi},
      {"--max_sessions", flags.max_sessions, 1, 100000000},
      {"--session_idle_to_rest", flags.session_idle_to_rest, 0, kYearSeconds},
      {"--session_idle_to_park", flags.session_idle_to_park, 0, kYearSeconds},
      {"--session_ttl", flags.session_ttl, 0, 10 * kYearSeconds},
      {"--session_lease_seconds", flags.session_lease_seconds, 3, kDaySeconds},
      // Chunks of snapshots have 1 MiB, and a message of tokens with their alternatives
      // less than 4.
      {"--max_message_bytes", flags.max_message_bytes, 4 * kMebi, kMaxMessageBytes},
      {"--max_metadata_bytes", flags.max_metadata_bytes, 1024, kMebi},
      {"--max_streams_per_connection", flags.max_streams_per_connection, 1, 65536},
      {"--max_connection_age_seconds", flags.max_connection_age_seconds, 1,
       kMaxMillisSeconds},
      {"--max_connection_age_grace_seconds", flags.max_connection_age_grace_seconds, 1,
       kMaxMillisSeconds},
      {"--min_ping_interval_seconds", flags.min_ping_interval_seconds, 1, kDaySeconds},
      {"--max_ping_strikes", flags.max_ping_strikes, 1, 1000},
      // Two messages of any size that passes above.
      {"--grpc_memory_bytes", flags.grpc_memory_bytes,
       std::max(16 * kMebi, 2 * std::clamp<std::int64_t>(flags.max_message_bytes, 0,
                                                         kMaxMessageBytes)),
       16 * kTebi},
      {"--max_memory_bytes",
       if_given("--max_memory_bytes", flags.max_memory_bytes, 16 * kMebi), 16 * kMebi,
       16 * kTebi},
  };
  for (const Bound& bound : bounds) {
    if (bound.value >= bound.low && bound.value <= bound.high) continue;
    return absl::InvalidArgumentError(absl::StrCat(bound.flag, " is ", bound.value,
                                                   "; it must be in [", bound.low, ", ",
                                                   bound.high, "]"));
  }
  return absl::OkStatus();
}

// The libraries take an address without a port for one with a port of their choice.
absl::Status CheckAddress(absl::string_view flag, const std::string& address) {
  const std::size_t colon = address.rfind(':');
  int port = -1;
  if (colon != std::string::npos && colon > 0 &&
      absl::SimpleAtoi(address.substr(colon + 1), &port) && port >= 0 && port <= 65535) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      flag, " is ", address, "; it must be HOST:PORT with a port in [0, 65535]"));
}

constexpr std::int64_t kMaxCachePercent =
    static_cast<std::int64_t>(100 * kMaxCacheShare + 0.5);

// A share, "60%", goes to `percent`; what is left for the flag's own value is
// `default_value`.
CLI::Validator ShareOr(std::int64_t& percent, std::int64_t default_value) {
  return {[&percent, default_value](std::string& text) -> std::string {
            percent = 0;
            if (!absl::EndsWith(text, "%")) return "";
            const std::size_t digits = text.find_first_not_of("0123456789");
            if (digits + 1 != text.size() ||
                !absl::SimpleAtoi(text.substr(0, digits), &percent) || percent < 1 ||
                percent > kMaxCachePercent)
              return absl::StrCat("a share is ", text, "; it must be in [1%, ",
                                  kMaxCachePercent, "%]");
            text = absl::StrCat(default_value);
            return "";
          },
          ""};
}

// A flag's one line of help says the same as the table in the README.
void DescribeModel(CLI::App& app, ServerFlags& flags) {
  app.add_option("--model", flags.model,
                 "Directory with config.json, model.safetensors "
                 "and vocab.txt")
      ->required();
  app.add_option("--model_name", flags.model_name,
                 "Name that GetModel gives (default: the directory's)");
  app.add_option("--listen", flags.listen, "HOST:PORT of gRPC; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--metrics", flags.metrics,
                 "HOST:PORT of Prometheus metrics, of IPv4; empty: none")
      ->capture_default_str();
  app.add_option("--compute_dtype", flags.compute_dtype,
                 "f32 or bf16 (default: as the weights are stored)")
      ->check(CLI::IsMember(ComputeDtypes()));
  app.add_option("--weight_dtype", flags.weight_dtype,
                 "auto (the compute dtype), int8 or fp8 for the large matrices")
      ->check(CLI::IsMember(WeightDtypes()))
      ->capture_default_str();
  app.add_option("--cache_dtype", flags.cache_dtype,
                 "auto (the compute dtype) or int8 for compressed keys")
      ->check(CLI::IsMember(CacheDtypes()))
      ->capture_default_str();
}

void DescribeMachine(CLI::App& app, ServerFlags& flags) {
  app.add_option("--backend", flags.backend,
                 "cpu; cuda; or auto: cuda where there is a device, else cpu")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  app.add_option("--device", flags.device, "Number of the CUDA device")
      ->capture_default_str();
  AddSwitch(app, "--cuda_graphs", flags.cuda_graphs,
            "on: decode steps are launched as CUDA graphs; or off");
  AddSwitch(app, "--cuda_overlap", flags.cuda_overlap,
            "on: a CUDA kernel may begin while the one before it ends, where the "
            "device can do that; or off");
  AddSwitch(app, "--cublas", flags.cublas,
            "on: products of prompts are cuBLASLt's, where a CUDA device and the "
            "library are there, which the numerics id says; or off");
  AddSwitch(app, "--run_ahead", flags.run_ahead,
            "on: a CUDA device has its next step queued while it runs one, which "
            "takes a second state for each sequence; or off");
  AddSwitch(app, "--batch_invariant", flags.batch_invariant,
            "on: what else runs changes no bit; off: it may, on CUDA devices, where "
            "large batches can be faster");
  std::vector<std::string> isas = CpuIsas();
  isas.insert(isas.begin(), "auto");
  app.add_option("--cpu_isa", flags.cpu_isa, "Instruction set to compute with")
      ->check(CLI::IsMember(isas))
      ->capture_default_str();
  app.add_option("--threads", flags.threads,
                 "Threads of the engine (default: one a CPU it may use)");
  app.add_option("--pin_threads", flags.pin_threads,
                 "auto: each to a processor where the engine has all of them; or off")
      ->check(CLI::IsMember({"auto", "off"}))
      ->capture_default_str();
}

void DescribeScheduling(CLI::App& app, ServerFlags& flags) {
  app.add_option("--max_sequences", flags.max_sequences, "Sequences that run at once")
      ->capture_default_str();
  app.add_option("--page_tokens", flags.page_tokens, "Tokens in one page of the cache")
      ->capture_default_str();
  app.add_option("--step_tokens", flags.step_tokens,
                 "Most tokens in one step (default: 512, on a CUDA device 4096)");
  app.add_option("--step_milliseconds", flags.step_milliseconds,
                 "Time of a step while others generate: longer prompts go on in smaller "
                 "pieces; 0: none")
      ->capture_default_str();
  app.add_option("--max_context_tokens", flags.max_context_tokens,
                 "Most tokens of a prompt and its output together")
      ->capture_default_str();
  app.add_option("--default_max_tokens", flags.default_max_tokens,
                 "max_tokens of a request that sets none")
      ->capture_default_str();
  app.add_option("--max_queued_requests", flags.max_queued_requests,
                 "Requests that may wait; more are refused")
      ->capture_default_str();
  app.add_option("--max_queued_tokens", flags.max_queued_tokens,
                 "Prompt tokens that may wait; more are refused")
      ->capture_default_str();
  app.add_option("--stream_buffer_tokens", flags.stream_buffer_tokens,
                 "Tokens held for a client that reads slowly; then it is paused")
      ->capture_default_str();
  app.add_option("--max_queue_seconds", flags.max_queue_seconds,
                 "A request that waits for so long is refused")
      ->capture_default_str();
  app.add_option("--slow_reader_seconds", flags.slow_reader_seconds,
                 "A paused request whose client reads nothing for so long is ended")
      ->capture_default_str();
  app.add_option("--drain_seconds", flags.drain_seconds,
                 "Time that running requests get to finish after SIGTERM")
      ->capture_default_str();
  app.add_option("--log_level", flags.log_level, "debug, info, warning, error or off")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
}

void DescribeMemory(CLI::App& app, ServerFlags& flags) {
  app.add_option("--cache_bytes", flags.cache_bytes,
                 "Bytes of the cache of compressed keys; KiB, MiB, GiB may follow; "
                 "or a share of the memory that is left, as 60%")
      ->transform(CLI::AsSizeValue(false))
      ->transform(ShareOr(flags.cache_percent, flags.cache_bytes))  // looks first
      ->capture_default_str();
  app.add_option("--expanded_bytes", flags.expanded_bytes,
                 "Bytes of the arena of expanded keys and values, likewise")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  AddSwitch(app, "--vocab_table", flags.vocab_table,
            "on: keep a table of the vocabulary that halves what rebuilding costs");
  app.add_option("--aside_bytes", flags.aside_bytes,
                 "Host memory of requests that have begun and wait while tenants that "
                 "were served less run; 0: none do")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
}

void DescribeSessions(CLI::App& app, ServerFlags& flags) {
  app.add_option("--prefix_cache_bytes", flags.prefix_cache_bytes,
                 "Host memory of the prefix cache; 0: none; KiB, MiB, GiB may follow")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--prefix_interval_tokens", flags.prefix_interval_tokens,
                 "In long prompts a state is kept for the cache every so many tokens")
      ->capture_default_str();
  app.add_option(
      "--session_store", flags.session_store,
      "Where sessions are parked: a directory, redis://HOST:PORT or unix://PATH "
      "(default: nowhere)");
  app.add_option("--session_bytes", flags.session_bytes,
                 "Host memory of sessions; beyond it the least recently used are parked")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--max_sessions", flags.max_sessions,
                 "Sessions held at once; further new ones are refused")
      ->capture_default_str();
  app.add_option(
         "--session_idle_to_rest", flags.session_idle_to_rest,
         "Seconds without a call after which a session leaves the device; 0: when "
         "its pages are needed")
      ->capture_default_str();
  app.add_option("--session_idle_to_park", flags.session_idle_to_park,
                 "Seconds without a call after which a session is parked; 0: when memory "
                 "is needed")
      ->capture_default_str();
  app.add_option("--session_ttl", flags.session_ttl,
                 "Seconds without a call after which a session is deleted; 0: never")
      ->capture_default_str();
  app.add_option("--session_lease_seconds", flags.session_lease_seconds,
                 "After so long without a sign of life others may take over its sessions")
      ->capture_default_str();
  app.add_option("--snapshot_key_file", flags.snapshot_key_file,
                 "File of 32 to 4096 bytes; snapshots are authenticated with it");
}

void DescribeAccess(CLI::App& app, ServerFlags& flags) {
  app.add_option("--tenants_file", flags.tenants_file,
                 "JSON file of who may call, read again on SIGHUP (default: everybody)");
  app.add_option("--admin_listen", flags.admin_listen,
                 "HOST:PORT of the admin service (default: none)");
  app.add_flag("--insecure_allow_anonymous", flags.insecure_allow_anonymous,
               "Listen beyond this machine without a tenants file");
  AddSwitch(app, "--reflection", flags.reflection,
            "on: tell everybody which methods there are; or off");
  app.add_option("--tls_cert", flags.tls_cert,
                 "PEM file of the certificate and its chain (default: no TLS)");
  app.add_option("--tls_key", flags.tls_key, "PEM file of its key");
  app.add_option("--tls_client_ca", flags.tls_client_ca,
                 "PEM file of who signs clients; clients then need a certificate");
  app.add_option("--max_message_bytes", flags.max_message_bytes,
                 "Largest message in and out; KiB, MiB, GiB may follow")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--max_metadata_bytes", flags.max_metadata_bytes,
                 "Largest headers of a call, likewise")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--max_streams_per_connection", flags.max_streams_per_connection,
                 "Calls at once on one connection; more wait at the client")
      ->capture_default_str();
  app.add_option("--max_connection_age_seconds", flags.max_connection_age_seconds,
                 "An older connection takes no new calls")
      ->capture_default_str();
  app.add_option("--max_connection_age_grace_seconds",
                 flags.max_connection_age_grace_seconds,
                 "Time that its running calls get; then they are broken off")
      ->capture_default_str();
  app.add_option("--min_ping_interval_seconds", flags.min_ping_interval_seconds,
                 "Pings of a client that come faster are strikes")
      ->capture_default_str();
  app.add_option("--max_ping_strikes", flags.max_ping_strikes,
                 "With more strikes a connection is closed")
      ->capture_default_str();
  app.add_option("--grpc_memory_bytes", flags.grpc_memory_bytes,
                 "Memory of all connections together; KiB, MiB, GiB may follow")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--max_memory_bytes", flags.max_memory_bytes,
                 "Host memory beyond which calls are refused (default: 95% of the "
                 "machine's or its container's)")
      ->transform(CLI::AsSizeValue(false));
}

// Which of these flags go together.
absl::Status CheckAccess(const ServerFlags& flags) {
  if (flags.tls_cert.empty() != flags.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "--tls_cert and --tls_key are given together or not at all");
  }
  if (!flags.tls_client_ca.empty() && flags.tls_cert.empty()) {
    return absl::InvalidArgumentError("--tls_client_ca is of no use without --tls_cert");
  }
  if (flags.tenants_file.empty() && !flags.insecure_allow_anonymous &&
      !IsLoopback(flags.listen)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen is ", flags.listen,
                     ", which other machines reach; give --tenants_file, or "
                     "--insecure_allow_anonymous to serve everybody"));
  }
  if (flags.tenants_file.empty() && !flags.admin_listen.empty() &&
      !IsLoopback(flags.admin_listen)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--admin_listen is ", flags.admin_listen,
                     ", which other machines reach; give --tenants_file, whose admins "
                     "may then call it"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CommandLine> ParseServerFlags(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App app("Serves a GoldFinch model over gRPC.", "goldfinch-server");
  app.set_version_flag("--version", absl::StrCat("goldfinch-server ", kBuild));
  DescribeModel(app, line.flags);
  DescribeMachine(app, line.flags);
  DescribeScheduling(app, line.flags);
  DescribeMemory(app, line.flags);
  DescribeSessions(app, line.flags);
  DescribeAccess(app, line.flags);
  try {
    app.parse(ReversedArguments(argc, argv));
  } catch (const CLI::CallForHelp&) {
    line.print = app.help();
    return line;
  } catch (const CLI::CallForVersion& version) {
    line.print = absl::StrCat(version.what(), "\n");
    return line;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(UsageMistake(app, error));
  }
  if (line.flags.model.empty()) {
    return absl::InvalidArgumentError("--model is empty; it must be a directory");
  }
  absl::Status status = CheckBounds(line.flags, {app});
  if (status.ok()) status = CheckAddress("--listen", line.flags.listen);
  if (status.ok() && !line.flags.metrics.empty()) {
    status = CheckAddress("--metrics", line.flags.metrics);
  }
  if (status.ok() && !line.flags.admin_listen.empty()) {
    status = CheckAddress("--admin_listen", line.flags.admin_listen);
  }
  if (status.ok()) status = CheckAccess(line.flags);
  if (!status.ok()) return status;
  return line;
}

}  // namespace goldfinch
