// serving_bench: what serving costs beside the model. A whole server around an engine
// that computes nothing, in this process; goldfinch-load beside it, in another.
//
//   build/release/bin/serving_bench [--seconds=5] [--json]
//
// Each line has what was measured beside the limit that it is to be held against: at most
// that much, of tokens and messages a second at least.
//
//   pause     how long the engine waits between two steps of 64 streams: publishing what
//             the last one brought, planning the next. Steps take as long as those of a
//             GPU do, so nothing else wants a processor then
//   cpu       of the server for each token that is streamed, at that load
//   messages  a second, when tokens are there at once
//   first     from a request's arrival to its first token on an idle server
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/folder.h"
#include "bench/instant_engine.h"
#include "bench/load/percentiles.h"
#include "bench/rows.h"
#include "engine/check.h"
#include "scheduler/clock.h"
#include "server/log.h"
#include "server/server.h"
#include "server/text/vocabulary.h"

namespace goldfinch {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::microseconds;

constexpr std::int32_t kVocabSize = 65536;

struct Flags {
  double seconds = 5;
  bool json = false;
  std::string load;  // the program
};

// The 256 bytes, as ids 1 to 256.
std::string BytesVocabulary() {
  std::string text;
  for (int byte = 0; byte < 256; ++byte)
    absl::StrAppendFormat(&text, "%d b'\\x%02x' 1\n", byte + 1, byte);
  return text;
}

double ProcessorSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Load {
  int streams = 64;
  std::int64_t max_tokens = 2000;
  microseconds step_time{0};
  bool runs_ahead = false;
};

struct Measured {
  Json client;                 // what goldfinch-load says of its only tenant
  std::vector<double> pauses;  // between steps of as many tokens as there are streams
  double window = 0;           // seconds
  double cpu_per_token = 0;    // seconds
};

class Bench {
 public:
  explicit Bench(const Flags& flags) : flags_(flags) {
    auto vocabulary =
        Vocabulary::Load(Write("vocabulary.txt", BytesVocabulary()), kVocabSize);
    GOLDFINCH_CHECK(vocabulary.ok());
    vocabulary_ = *std::move(vocabulary);
  }

  Measured Run(const Load& load) const {
    InstantEngine engine(load.streams, kVocabSize, load.step_time, load.runs_ahead);
    const SteadyClock clock;
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.metrics.clear();
    options.scheduler.step_tokens = 4096;
    options.model.name = "instant";
    auto server = Server::Start(options, engine, *vocabulary_, clock);
    GOLDFINCH_CHECK(server.ok());
    const std::string scenario = Write("scenario.json", ScenarioOf(load).dump());
    const double before = ProcessorSeconds();
    engine.TakePauses(0);
    Measured measured;
    const Json report = Client(scenario, (*server)->port());
    const double taken = ProcessorSeconds() - before;
    measured.client = report["tenants"][0];
    measured.window = report["window_seconds"];
    measured.pauses = engine.TakePauses(load.streams);
    measured.cpu_per_token = taken / static_cast<double>(engine.sampled());
    return measured;
  }

 private:
  // The path of a new file of this text.
  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = absl::StrCat(folder_.path(), "/", name);
    std::ofstream(path) << text;
    return path;
  }

  Json ScenarioOf(const Load& load) const {
    return {{"duration_seconds", flags_.seconds},
            {"warmup_seconds", 1},
            {"tail_seconds", 0},
            {"tenants",
             {{{"name", "bench"},
               {"concurrent", load.streams},
               {"prompt_tokens", 8},
               {"max_tokens", load.max_tokens}}}}};
  }

  Json Client(const std::string& scenario, int port) const {
    const std::string command = absl::StrCat("'", flags_.load, "' run '", scenario,
                                             "' --json --server=127.0.0.1:", port);
    std::FILE* const pipe = popen(command.c_str(), "r");
    GOLDFINCH_CHECK(pipe != nullptr);
    std::string output;
    std::array<char, 4096> piece;
    while (const std::size_t count = std::fread(piece.data(), 1, piece.size(), pipe))
      output.append(piece.data(), count);
    if (pclose(pipe) != 0) {
      std::fprintf(stderr, "serving_bench: %s failed\n", command.c_str());
      std::exit(1);
    }
    return Json::parse(output);
  }

  const Flags flags_;
  const Folder folder_;
  std::unique_ptr<const Vocabulary> vocabulary_;
};

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("What serving costs beside the model.", "serving_bench");
  app.add_option("--seconds", flags.seconds, "of each case")
      ->check(CLI::Range(0.2, 600.0));
  app.add_flag("--json", flags.json);
  CLI11_PARSE(app, argc, argv);
  flags.load =
      std::filesystem::canonical("/proc/self/exe").parent_path() / "goldfinch-load";
  SetLogLevel("warning");  // a line for each request would be in the way
  const Bench bench(flags);

  // A step of 64 sequences takes an H200 about that long at the 1.5B shape.
  constexpr microseconds kGpuStep{1300};
  const Measured steps = bench.Run({.step_time = kGpuStep});
  const LatencySummary pauses = Summarize(steps.pauses);
  const LatencySummary ahead =
      Summarize(bench.Run({.step_time = kGpuStep, .runs_ahead = true}).pauses);
  const Measured flood = bench.Run({});
  const auto per_second = [&](const char* field) {
    return flood.client[field].get<double>() / flood.window;
  };
  const Measured one = bench.Run({.streams = 1, .max_tokens = 1});
  // The share of a step that serving may leave the device without work.
  const double pause = 0.02 * std::chrono::duration<double, std::micro>(kGpuStep).count();
  const Json& first = one.client["first_token_seconds"];
  const Rows rows(flags.json, /*decimals=*/2);
  rows.Print("pause/streams:64/p50", 1e6 * pauses.p50, "us", pause);
  rows.Print("pause/streams:64/p99", 1e6 * pauses.p99, "us", pause);
  rows.Print("pause_ahead/streams:64/p50", 1e6 * ahead.p50, "us", pause);
  rows.Print("pause_ahead/streams:64/p99", 1e6 * ahead.p99, "us", pause);
  rows.Print("cpu/streams:64", 1e6 * steps.cpu_per_token, "us/token", 5);
  rows.Print("cpu/streams:64/instant", 1e6 * flood.cpu_per_token, "us/token", 5);
  rows.Print("tokens/streams:64/instant", per_second("generated_tokens"), "tokens/s",
             2e5);
  rows.Print("messages/streams:64/instant", per_second("messages"), "messages/s", 2e5);
  rows.Print("first/idle/p50", 1e3 * first["p50"].get<double>(), "ms", 0.5);
  rows.Print("first/idle/p99", 1e3 * first["p99"].get<double>(), "ms", 0.5);
  return 0;
}

}  // namespace
}  // namespace goldfinch

int main(int argc, char** argv) { return goldfinch::Main(argc, argv); }
