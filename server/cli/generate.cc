#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/cli/call.h"
#include "server/cli/commands.h"

namespace goldfinch {
namespace {

// "ID:VALUE" into the map; false when it is not that.
bool AddLogitBias(const std::string& entry, v1::SamplingParams& sampling) {
  char* end = nullptr;
  const long id = std::strtol(entry.c_str(), &end, 10);
  if (end == entry.c_str() || *end != ':' || id != static_cast<std::int32_t>(id)) {
    return false;
  }
  const char* value = end + 1;
  const float bias = std::strtof(value, &end);
  if (end == value || *end != '\0') return false;
  (*sampling.mutable_logit_bias())[static_cast<std::int32_t>(id)] = bias;
  return true;
}

bool FillSampling(const GenerateFlags& flags, v1::SamplingParams& out) {
  if (flags.max_tokens) out.set_max_tokens(*flags.max_tokens);
  out.set_min_tokens(flags.min_tokens);
  if (flags.temperature) out.set_temperature(*flags.temperature);
  if (flags.top_p) out.set_top_p(*flags.top_p);
  out.set_top_k(flags.top_k);
  out.set_min_p(flags.min_p);
  if (flags.repetition_penalty) out.set_repetition_penalty(*flags.repetition_penalty);
  out.set_frequency_penalty(flags.frequency_penalty);
  out.set_presence_penalty(flags.presence_penalty);
  if (flags.seed) out.set_seed(*flags.seed);
  for (const std::string& stop : flags.stop) out.add_stop(stop);
  for (const std::int32_t token : flags.stop_token_ids) out.add_stop_token_ids(token);
  out.set_include_stop_str_in_output(flags.include_stop_str_in_output);
  out.set_ignore_eos(flags.ignore_eos);
  if (flags.logprobs) out.set_logprobs(*flags.logprobs);
  if (flags.n) out.set_n(*flags.n);
  for (const std::string& entry : flags.logit_bias) {
    if (AddLogitBias(entry, out)) continue;
    std::fprintf(stderr, "goldfinch: --logit_bias is %s; it must be ID:VALUE\n",
                 entry.c_str());
    return false;
  }
  return true;
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) +
         static_cast<double>(duration.nanos()) * 1e-9;
}

void PrintStats(const v1::GenerateResponse& last) {
  const v1::Usage& usage = last.usage();
  std::fprintf(stderr,
               "candidate %d: prompt %lld tokens (%lld cached), generated %lld; queue "
               "%.3f s, first token %.3f s, total %.3f s\n",
               last.candidate(), static_cast<long long>(usage.prompt_tokens()),
               static_cast<long long>(usage.cached_prompt_tokens()),
               static_cast<long long>(usage.generated_tokens()),
               Seconds(usage.queue_time()), Seconds(usage.first_token_time()),
               Seconds(usage.total_time()));
}

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Shows messages as they come: one candidate as bare text, several each in one piece
// under its label, because their messages come interleaved.
class Printer {
 public:
  explicit Printer(const GenerateFlags& flags)
      : json_(flags.json), stats_(flags.stats), labelled_(flags.n.value_or(1) > 1) {}

  void Show(const v1::GenerateResponse& message) {
    if (json_) {
      ShowJson(message);
    } else if (labelled_) {
      Gather(message);
    } else {
      Print(message.text());
      shown_ = true;
    }
    if (stats_ && message.has_usage()) PrintStats(message);
  }

  void End() const {
    if (shown_) Print("\n");
  }

 private:
  static void ShowJson(const v1::GenerateResponse& message) {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    std::string line;
    if (google::protobuf::util::MessageToJsonString(message, &line, options).ok()) {
      Print(line + "\n");
    }
  }

  void Gather(const v1::GenerateResponse& message) {
    const auto index = static_cast<std::size_t>(message.candidate());
    if (texts_.size() <= index) texts_.resize(index + 1);
    texts_[index] += message.text();
    if (!message.has_usage()) return;
    Print("--- candidate " + std::to_string(index) + " ---\n" + texts_[index] + "\n");
  }

  const bool json_;
  const bool stats_;
  const bool labelled_;
  bool shown_ = false;
  std::vector<std::string> texts_;
};

}  // namespace

int RunGenerate(const GenerateFlags& flags) {
  v1::GenerateRequest request;
  if (!FillSampling(flags, *request.mutable_sampling())) return 1;
  request.set_priority(flags.priority);
  if (!flags.tokens.empty()) {
    request.mutable_tokens()->mutable_ids()->Add(flags.tokens.begin(),
                                                 flags.tokens.end());
  } else {
    request.set_text(flags.prompt ? *flags.prompt : ReadStandardInput());
  }
  grpc::ClientContext context;
  SetDeadline(flags.connection, context);
  const CancelOnSignal cancel(context);
  const auto stub = v1::GenerationService::NewStub(Connect(flags.connection));
  const auto reader = stub->Generate(&context, request);
  Printer printer(flags);
  for (v1::GenerateResponse message; reader->Read(&message);) printer.Show(message);
  printer.End();
  return cancel.Report(reader->Finish());
}

}  // namespace goldfinch
