// goldfinch-bench: how fast the engine is, as ratios of what the machine allows.
//
// Prefill is limited by arithmetic (recurrent layers and key compression only), decode
// by memory: weights once a step, state read and written and expanded keys and values
// read once a sequence. Limits are measured in the same run, next to each case, on the
// processor or the device that the engine runs on.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/bench_flags.h"
#include "bench/limits.h"
#include "bench/median.h"
#include "bench/op_inputs.h"
#include "bench/resident.h"
#include "bench/rows.h"
#include "bench/session_times.h"
#include "bench/shape.h"
#include "engine/backend/create_backend.h"
#include "engine/check.h"
#include "engine/host_bytes.h"
#include "engine/model/dtype_names.h"
#include "engine/model_engine.h"

namespace goldfinch {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

struct DecodeCase {
  std::int64_t context;
  int batch;
  bool rebuilt;
  std::string name;
};

constexpr std::int64_t kShortContext = 64;
constexpr std::size_t kDecodeSteps = 200;  // at most, and room kept for them

class Bench {
 public:
  Bench(const BenchFlags& flags, Checkpoint checkpoint)
      : flags_(flags),
        checkpoint_(std::move(checkpoint)),
        bf16_(ParseComputeDtype(flags.compute_dtype) == ComputeType::kBf16),
        threads_(flags.threads > 0
                     ? flags.threads
                     : static_cast<int>(std::thread::hardware_concurrency())),
        costs_(CostsOf(checkpoint_.config(), Bytes(flags))),
        only_(flags.cases),
        rows_(flags.json, /*decimals=*/1),
        limits_(LimitsOf()) {}

  void Run() {
    for (const std::int64_t tokens : {512, 1024, 2048, 8192, 32768, 131072})
      Prefill(absl::StrCat("prefill/t:", tokens), tokens);
    for (const int batch : {1, 4, 16, 64, 256})
      Decode({kShortContext, batch, false, absl::StrCat("decode/batch:", batch)});
    for (const bool rebuilt : {false, true}) {
      for (const std::int64_t context : {1024, 8192, 32768, 131072}) {
        if (context > 32768 && !flags_.long_contexts) continue;
        for (const int batch : {1, 8, 16})
          Decode({context, batch, rebuilt,
                  absl::StrCat(rebuilt ? "decode_rebuilt" : "decode", "/ctx:", context,
                               "/batch:", batch)});
      }
    }
    for (const int batch : {64, 256}) WkvDecode(batch);
    for (const int batch : {1, 16}) Attend(32768, batch);
    SessionBytes();
    Resident(65536);
    for (const std::int64_t tokens : {8192, 65536}) Parking(tokens);
  }

 private:
  static ElementBytes Bytes(const BenchFlags& flags) {
    const std::int64_t compute =
        ParseComputeDtype(flags.compute_dtype) == ComputeType::kBf16 ? 2 : 4;
    const auto bytes = [compute](const std::string& dtype) {
      return ParseStorageDtype(dtype) == StorageType::kCompute ? compute : 1;
    };
    return {.compute = compute,
            .weights = bytes(flags.weight_dtype),
            .cache = bytes(flags.cache_dtype)};
  }

  BackendOptions OptionsOfBackend() const {
    return {.kind = flags_.backend,
            .device = flags_.device,
            .cuda_graphs = flags_.cuda_graphs == "on",
            .cuda_overlap = flags_.cuda_overlap == "on",
            .cublas = flags_.cublas == "on",
            .batch_invariant = flags_.batch_invariant == "on",
            .cpu_isa = flags_.cpu_isa,
            .num_threads = threads_,
            .pin_threads = !flags_.float_threads};
  }

  std::unique_ptr<Backend> NewBackend() const {
    auto backend = CreateBackend(OptionsOfBackend());
    if (!backend.ok()) Die(backend.status());
    return *std::move(backend);
  }

  [[noreturn]] static void Die(const absl::Status& status) {
    std::fprintf(stderr, "goldfinch-bench: %s\n", std::string(status.message()).c_str());
    std::exit(1);
  }

  // Of the device, where the engine runs on one.
  std::unique_ptr<Limits> LimitsOf() const {
    if (flags_.backend != "cpu") {
      std::unique_ptr<Backend> backend = NewBackend();
      if (backend->numerics().starts_with("cuda"))
        return DeviceLimits(std::move(backend), bf16_);
    }
    return CpuLimits(threads_, bf16_);
  }

  bool Wanted(const std::string& name) const { return std::regex_search(name, only_); }

  // Of tokens.
  struct Room {
    std::int64_t cached, expanded;
    int sequences;
  };
  // For sequences of so many tokens each, expanded unless they are to be rebuilt.
  static Room RoomFor(std::int64_t tokens, int sequences, bool rebuilt) {
    const std::int64_t all = (tokens / 64 + 2) * 64 * sequences;
    return {.cached = all, .expanded = rebuilt ? 0 : all, .sequences = sequences};
  }

  // One engine at a time: two would not fit.
  ModelEngine& EngineFor(const Room& room) {
    engine_.reset();
    ModelEngineOptions options;
    options.compute_type = ParseComputeDtype(flags_.compute_dtype);
    options.weight_storage = ParseStorageDtype(flags_.weight_dtype).value();
    options.cache_storage = ParseStorageDtype(flags_.cache_dtype).value();
    options.backend = OptionsOfBackend();
    options.run_ahead = flags_.run_ahead == "on";
    options.vocab_table = flags_.vocab_table;
    options.max_sequences = room.sequences;
    options.max_step_tokens = flags_.step_tokens;
    options.cache_bytes = static_cast<std::int64_t>(static_cast<double>(room.cached) *
                                                    costs_.cache_bytes * 1.01);
    options.expanded_bytes = static_cast<std::int64_t>(
        static_cast<double>(room.expanded) * costs_.expanded_bytes * 1.01);
    auto engine = ModelEngine::Create(options, checkpoint_);
    if (!engine.ok()) Die(engine.status());
    engine_ = *std::move(engine);
    // Whether a library has products is part of it.
    std::fprintf(stderr, "numerics id: %s\n", engine_->info().numerics_id.c_str());
    return *engine_;
  }

  bool FitsMemory(const std::string& name, std::int64_t tokens, int sequences,
                  bool rebuilt) const {
    const bool ahead = flags_.backend != "cpu" && flags_.run_ahead == "on";
    const double need =
        costs_.weight_bytes * 2 +
        sequences * (costs_.state_bytes * (ahead ? 2 : 1) +
                     static_cast<double>(tokens) *
                         (costs_.cache_bytes + (rebuilt ? 0 : costs_.expanded_bytes)));
    if (need <= static_cast<double>(flags_.memory_bytes)) return true;
    Skip(name, absl::StrCat("needs ", static_cast<std::int64_t>(need / 1e9),
                            " GB; --memory_bytes allows ",
                            flags_.memory_bytes / 1'000'000'000));
    return false;
  }

  static void Skip(const std::string& name, const std::string& why) {
    std::fprintf(stderr, "%s: skipped: %s\n", name.c_str(), why.c_str());
  }

  void Prefill(const std::string& name, std::int64_t tokens) {
    if (!Wanted(name) || !FitsMemory(name, tokens, 1, false)) return;
    if (prefill_rate_ > 0 &&
        static_cast<double>(tokens) / prefill_rate_ > flags_.case_seconds)
      return Skip(name, absl::StrCat("would take longer than --case_seconds=",
                                     flags_.case_seconds));
    std::fprintf(stderr, "%s ...\n", name.c_str());
    constexpr int kPasses = 15;
    const double before = limits_->PeakFlops(kPasses);
    ModelEngine& engine = EngineFor(RoomFor(tokens, 1, false));
    WriteMemory(engine, tokens);
    PrefillOnce(engine, std::min<std::int64_t>(tokens, engine.info().max_step_tokens));
    std::vector<double> seconds;
    const auto start = Clock::now();
    do {
      seconds.push_back(PrefillOnce(engine, tokens));
    } while (seconds.size() < 5 && Seconds(start) < flags_.case_seconds / 6);
    const double rate = static_cast<double>(tokens) / Median(seconds);
    prefill_rate_ = rate;
    const double peak = (before + limits_->PeakFlops(kPasses)) / 2;
    rows_.Print(name, rate, "tokens/s", peak / costs_.prompt_flops);
  }

  // The system backs the cache and the arena as they are first written, which a server
  // that has run for a while is past.
  void WriteMemory(ModelEngine& engine, std::int64_t tokens) {
    const SequenceId id = OpenFilled(engine, tokens, tokens - 1);
    DecodeStep(engine, {id});
    engine.Close(id);
  }

  double PrefillOnce(ModelEngine& engine, std::int64_t tokens) {
    const auto prompt = RandomTokens(tokens);
    const SequenceId id = Open(engine, tokens, tokens - 1);
    const auto start = Clock::now();
    // As the scheduler cuts it.
    const std::int64_t grid = engine.info().prompt_grid;
    const std::int64_t step = std::max(grid, engine.info().max_step_tokens / grid * grid);
    for (std::int64_t begin = 0, count = 0; begin < tokens; begin += count) {
      const std::int64_t end = std::min(begin + step, tokens);
      count = engine.info().SpanEnd(begin, end, tokens - 1) - begin;
      Span span;
      span.sequence = id;
      span.tokens = std::span(prompt).subspan(static_cast<std::size_t>(begin),
                                              static_cast<std::size_t>(count));
      if (begin + count == tokens) span.output = SpanOutput::kSample;
      Step(engine, std::span(&span, 1));
    }
    const double seconds = Seconds(start);
    engine.Close(id);
    return seconds;
  }

  void Decode(const DecodeCase& decode) {
    constexpr int kPasses = 5;
    constexpr std::size_t kStepsBetween = 8;
    const std::int64_t tokens = decode.context + static_cast<std::int64_t>(kDecodeSteps);
    if (!Wanted(decode.name) ||
        !FitsMemory(decode.name, tokens, decode.batch, decode.rebuilt))
      return;
    std::fprintf(stderr, "%s ...\n", decode.name.c_str());
    ModelEngine& engine = EngineFor(RoomFor(tokens, decode.batch, decode.rebuilt));
    std::vector<SequenceId> ids;
    for (int i = 0; i < decode.batch; ++i)
      ids.push_back(OpenFilled(engine, tokens, decode.context));
    std::vector<double> seconds, bandwidths = {limits_->Bandwidth(kPasses)};
    // The first step expands the whole context; it is not a decode step.
    const double first = DecodeStep(engine, ids);
    if (decode.rebuilt && first * 3 > flags_.case_seconds)
      return Skip(decode.name, "would take longer than --case_seconds");
    const auto start = Clock::now();
    // As many as the scheduler queues one behind the other, where steps overlap.
    const std::size_t run = engine.info().runs_ahead ? 2 * kStepsBetween : 1;
    do {
      // Before and after, and in between: a neighbour may come and go within a case.
      if (seconds.size() >= kStepsBetween * bandwidths.size())
        bandwidths.push_back(limits_->Bandwidth(1));
      DecodeSteps(engine, ids, run, seconds);
    } while (seconds.size() + run < kDecodeSteps - 1 &&
             (seconds.size() < 3 || Seconds(start) < flags_.case_seconds / 12));
    bandwidths.push_back(limits_->Bandwidth(kPasses));
    const double bandwidth = Median(bandwidths);
    const double expanded =
        decode.rebuilt ? 0 : static_cast<double>(decode.context) * costs_.expanded_bytes;
    const double bytes =
        costs_.weight_bytes + decode.batch * (2 * costs_.state_bytes + expanded);
    // A name of its own, to be beside the others in a report.
    const char* const how = flags_.run_ahead == "on" ? "" : "/run_ahead:off";
    rows_.Print(absl::StrCat(decode.name, how), decode.batch / Median(seconds),
                "tokens/s", decode.batch * bandwidth / bytes);
    for (const SequenceId id : ids) engine.Close(id);
    if (decode.batch == 1 && !decode.rebuilt && decode.context > kShortContext)
      Expand(engine, decode.context, Median(seconds));
  }

  // Keys and values of a whole context, as a restored session pays for them in its first
  // step: `step` seconds of it are the step itself. The arena's memory has been written
  // before, as on a server that has run for a while.
  void Expand(ModelEngine& engine, std::int64_t context, double step) {
    constexpr int kPasses = 15;
    const std::string name = absl::StrCat("expand/t:", context);
    std::vector<double> seconds;
    const double before = limits_->PeakFlops(kPasses);
    for (int i = 0; i < 3; ++i) {
      const std::vector<SequenceId> ids = {OpenFilled(engine, context + 1, context)};
      seconds.push_back(DecodeStep(engine, ids) - step);
      engine.Close(ids[0]);
    }
    const double peak = (before + limits_->PeakFlops(kPasses)) / 2;
    rows_.Print(name, static_cast<double>(context) / Median(seconds), "tokens/s",
                peak / costs_.expand_flops);
  }

  double DecodeStep(ModelEngine& engine, const std::vector<SequenceId>& ids) {
    std::vector<double> seconds;
    DecodeSteps(engine, ids, 1, seconds);
    return seconds[0];
  }

  // Steps of all sequences, each from the end of the one before it, behind which it is
  // queued where the engine can.
  void DecodeSteps(ModelEngine& engine, const std::vector<SequenceId>& ids,
                   std::size_t count, std::vector<double>& seconds) {
    std::vector<Span> batch(ids.size());
    const TokenId token = 17;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      batch[i].sequence = ids[i];
      batch[i].tokens = std::span(&token, 1);
      batch[i].output = SpanOutput::kSample;
    }
    std::vector<SpanResult> results[2];
    for (std::vector<SpanResult>& some : results) some.resize(ids.size());
    auto start = Clock::now();
    bool is_queued = false;
    for (std::size_t i = 0; i < count; ++i) {
      if (!is_queued) engine.Queue(batch, results[i % 2]);
      is_queued = i + 1 < count && engine.QueueNext(ids, results[(i + 1) % 2]);
      GOLDFINCH_CHECK(engine.Wait().ok());
      seconds.push_back(Seconds(start));
      start = Clock::now();
    }
  }

  void Step(ModelEngine& engine, std::span<const Span> batch) {
    std::vector<SpanResult> results(batch.size());
    GOLDFINCH_CHECK(engine.Forward(batch, results).ok());
  }

  // Of `tokens` tokens, which samples after `prompt` + 1 of them.
  static SequenceSpec SpecOf(std::int64_t tokens, std::int64_t prompt) {
    SamplingParams sampling;
    sampling.temperature = 0;
    return {.max_tokens = tokens, .first_logits = prompt, .sampling = sampling};
  }

  SequenceId Open(ModelEngine& engine, std::int64_t tokens, std::int64_t prompt) {
    auto id = engine.Open(SpecOf(tokens, prompt));
    GOLDFINCH_CHECK(id.ok());
    return *id;
  }

  // The same after `context` tokens, which nothing computed: it goes on from an image
  // whose keys are some number and whose state is that of a new sequence.
  SequenceId OpenFilled(ModelEngine& engine, std::int64_t tokens, std::int64_t context,
                        unsigned seed = 1) {
    const EngineInfo& info = engine.info();
    const std::vector<TokenId> history = RandomTokens(context, seed);
    // 0.25 in bf16 and about that in float32, whatever the type.
    std::vector<std::byte> keys(static_cast<std::size_t>(context * info.key_bytes));
    for (std::size_t i = 0; i < keys.size(); ++i)
      keys[i] = i % 2 == 0 ? std::byte{0x80} : std::byte{0x3e};
    const std::vector<std::byte> state(static_cast<std::size_t>(info.state_bytes));
    PrefixImage image;
    image.length = context;
    if (info.num_pages > 0) image.tokens = history;
    image.keys = keys;
    image.state = state;
    const auto prefix = engine.Load(image);
    GOLDFINCH_CHECK(prefix.ok());
    const auto id = engine.OpenFrom(*prefix, SpecOf(tokens, context), history);
    GOLDFINCH_CHECK(id.ok());
    engine.Drop(*prefix);
    return *id;
  }

  std::vector<TokenId> RandomTokens(std::int64_t count, unsigned seed = 1) {
    std::mt19937 random(seed);
    std::vector<TokenId> tokens(static_cast<std::size_t>(count));
    const auto vocab = static_cast<unsigned>(checkpoint_.config().vocab_size);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random() % vocab);
    return tokens;
  }

  void SessionBytes() {
    constexpr double kTokens = 65536;
    if (!Wanted("session_bytes")) return;
    const ModelConfig& config = checkpoint_.config();
    const double bytes = costs_.state_bytes + kTokens * costs_.cache_bytes;
    // A transformer of the same shape keeps keys and values in every layer.
    const double full = kTokens * 2 * config.n_embd * (bf16_ ? 2 : 4) * config.n_layer;
    rows_.Print("session_bytes/t:65536", bytes, "bytes", full);
    rows_.Print("sessions_per_gb/t:65536", 1e9 / bytes, "sessions", 1e9 / full);
  }

  // One op by itself, by the bytes that it must move.
  template <typename Op>
  void OneOp(const std::string& name, Backend& backend, double bytes, const Op& op) {
    std::fprintf(stderr, "%s ...\n", name.c_str());
    const double before = CopyBandwidth(backend, 5);
    const double rate = MedianRate(backend, /*passes=*/30, bytes, op);
    const double limit = (before + CopyBandwidth(backend, 5)) / 2;
    rows_.Print(name, rate, "bytes/s", limit);
  }

  // States of one layer read and written, a token of each sequence.
  void WkvDecode(int batch) {
    const std::string name = absl::StrCat("wkv/batch:", batch);
    const std::int64_t d = checkpoint_.config().dim_att;
    if (!Wanted(name)) return;
    engine_.reset();
    const auto backend = NewBackend();
    OpInputs inputs(*backend);
    const WkvArgs args = inputs.Wkv(batch, d, /*single=*/false);
    OneOp(name, *backend, 2.0 * 4 * kHeadSize * static_cast<double>(batch * d),
          [&] { backend->Wkv(args); });
  }

  // Expanded keys and values of one layer read, in bf16.
  void Attend(std::int64_t context, int batch) {
    const std::string name = absl::StrCat("attend/ctx:", context, "/batch:", batch);
    const std::int64_t d = checkpoint_.config().n_embd;
    const double bytes = 2.0 * 2 * static_cast<double>(batch * context * d);
    if (!Wanted(name)) return;
    if (bytes > static_cast<double>(flags_.memory_bytes))
      return Skip(name, "--memory_bytes allows less");
    engine_.reset();
    const auto backend = NewBackend();
    OpInputs inputs(*backend);
    const AttendArgs args = inputs.Attend(batch, context, d);
    OneOp(name, *backend, bytes, [&] { backend->Attend(args); });
  }

  // So many sessions in device memory at once, each of which answers.
  void Resident(std::int64_t tokens) {
    const std::string name = absl::StrCat("resident/t:", tokens);
    const auto count = static_cast<int>(flags_.sessions);
    if (!Wanted(name) || !FitsMemory(name, tokens * count, 1, true)) return;
    std::fprintf(stderr, "%s ...\n", name.c_str());
    constexpr int kImages = 3;
    ModelEngine& engine = EngineFor({.cached = tokens * (count + kImages + 1),
                                     .expanded = tokens + 128,
                                     .sequences = 2});
    std::vector<PrefixImage> images(kImages);
    for (int i = 0; i < kImages; ++i) {
      const SequenceId id =
          OpenFilled(engine, tokens, tokens - 1, static_cast<unsigned>(i + 1));
      const PrefixId kept = engine.Keep(id);
      engine.Close(id);
      const absl::Status saved = engine.Save(kept, images[static_cast<std::size_t>(i)]);
      engine.Drop(kept);
      if (!saved.ok()) Die(saved);
    }
    const double peak = limits_->PeakFlops(5);
    const auto residents = MeasureResidents(engine, images, count, /*next=*/17);
    if (!residents.ok()) return Skip(name, std::string(residents.status().message()));
    rows_.Print(name, static_cast<double>(residents->sessions), "sessions", 0);
    rows_.Print(absl::StrCat("resident_load/t:", tokens), 1 / residents->seconds_to_load,
                "sessions/s", 0);
    rows_.Print(absl::StrCat("resident_answer/t:", tokens),
                1 / residents->seconds_to_answer, "sessions/s",
                peak / costs_.expand_flops / static_cast<double>(tokens));
  }

  // Parking a whole session and bringing it back, against plain copies of its bytes.
  void Parking(std::int64_t tokens) {
    const auto name = [tokens](const char* what) {
      return absl::StrCat(what, "/t:", tokens);
    };
    const auto names = {name("keep"), name("park"), name("restore"),
                        name("open"), name("put"),  name("get")};
    if (std::ranges::none_of(names, [this](const auto& n) { return Wanted(n); })) return;
    if (!FitsMemory(name("park"), tokens, 2, true)) return;
    std::fprintf(stderr, "%s ...\n", name("park").c_str());
    ModelEngine& engine = EngineFor(RoomFor(tokens, 2, true));
    const SequenceId id = OpenFilled(engine, tokens, tokens - 1);
    const auto times = MeasureSession(engine, id, tokens);
    engine.Close(id);
    if (!times.ok()) return Skip(name("park"), std::string(times.status().message()));
    const auto report = [&](const char* what, double seconds, double limit) {
      rows_.Print(name(what), times->bytes / seconds, "bytes/s", times->bytes / limit);
    };
    report("keep", times->keep, times->copy);
    report("park", times->park, times->copy);
    report("restore", times->restore, times->copy);
    report("open", times->open, times->copy);
    report("put", times->put, times->file_write);
    report("get", times->get, times->file_read);
  }

  const BenchFlags flags_;
  const Checkpoint checkpoint_;
  const bool bf16_;
  const int threads_;
  const ShapeCosts costs_;
  const std::regex only_;
  const Rows rows_;
  const std::unique_ptr<Limits> limits_;
  std::unique_ptr<ModelEngine> engine_;
  double prefill_rate_ = 0;
};

absl::StatusOr<Checkpoint> MakeCheckpoint(const BenchFlags& flags) {
  if (!flags.model.empty()) return Checkpoint::Load(flags.model);
  auto config = ConfigOfShape(flags.shape);
  if (!config.ok()) return config.status();
  return Checkpoint::Random(*config, 1);
}

int Main(int argc, char** argv) {
  BenchFlags flags;
  if (const std::optional<int> exit_code = ParseFlags(argc, argv, flags))
    return *exit_code;
  ReuseLargeBuffers();  // as the server does
  auto checkpoint = MakeCheckpoint(flags);
  if (!checkpoint.ok()) {
    std::fprintf(stderr, "goldfinch-bench: %s\n",
                 std::string(checkpoint.status().message()).c_str());
    return 1;
  }
  try {
    Bench(flags, *std::move(checkpoint)).Run();
  } catch (const std::regex_error& error) {
    std::fprintf(stderr, "goldfinch-bench: --cases: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace goldfinch

int main(int argc, char** argv) { return goldfinch::Main(argc, argv); }
