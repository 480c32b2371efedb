#include "server/cli/print.h"

#include <google/protobuf/util/json_util.h>

#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace goldfinch {

void Print(absl::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

bool OutputIsLost() { return std::ferror(stdout) != 0; }

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string line;
  if (google::protobuf::util::MessageToJsonString(message, &line, options).ok()) {
    Print(line + "\n");
  }
}

std::string ShortName(const std::string& name, const std::string& prefix) {
  return absl::AsciiStrToLower(name.substr(prefix.size()));
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) +
         static_cast<double>(duration.nanos()) * 1e-9;
}

std::string UsageText(const v1::Usage& usage) {
  return absl::StrFormat(
      "prompt %d tokens (%d cached), generated %d; queue %.3f s, first token %.3f s, "
      "total %.3f s",
      usage.prompt_tokens(), usage.cached_prompt_tokens(), usage.generated_tokens(),
      Seconds(usage.queue_time()), Seconds(usage.first_token_time()),
      Seconds(usage.total_time()));
}

}  // namespace goldfinch
