#include "server/call_log.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "server/status.h"

namespace goldfinch {
namespace {

constexpr char kTraceparent[] = "traceparent";

double Seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

bool IsHex(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c == '0'; });
}

const char* NameOf(const StreamEvent& end) {
  if (end.kind == StreamEvent::Kind::kScores) return "scored";
  if (end.kind == StreamEvent::Kind::kFilled) return "filled";
  return end.finish_reason == FinishReason::kStop ? "stop" : "length";
}

// Those of other codes say what is wrong with a request, which is its caller's.
bool TellsOfServer(const grpc::Status& status) {
  const grpc::StatusCode code = status.error_code();
  return code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
         code == grpc::StatusCode::INTERNAL || code == grpc::StatusCode::UNAVAILABLE ||
         code == grpc::StatusCode::DATA_LOSS;
}

}  // namespace

bool IsTraceparent(std::string_view text) {
  if (text.size() != 55 || text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return false;
  }
  const std::string_view trace = text.substr(3, 32);
  const std::string_view parent = text.substr(36, 16);
  return text.starts_with("00") && IsHex(trace) && IsHex(parent) &&
         IsHex(text.substr(53)) && !IsZero(trace) && !IsZero(parent);
}

void TellRequestId(std::uint64_t id, grpc::CallbackServerContext& context) {
  context.AddInitialMetadata("goldfinch-request-id", absl::StrCat(id));
}

CallLog::CallLog(const char* method, grpc::CallbackServerContext& context,
                 const Clock& clock)
    : method_(method), clock_(clock), started_(clock.Now()) {
  const auto& metadata = context.client_metadata();
  if (metadata.count(kTraceparent) != 1) return;
  const grpc::string_ref value = metadata.find(kTraceparent)->second;
  if (!IsTraceparent({value.data(), value.size()})) return;
  traceparent_.assign(value.data(), value.size());
  context.AddInitialMetadata(kTraceparent, traceparent_);
}

void CallLog::Write(const End& end) const {
  nlohmann::ordered_json line = {{"event", "request"},
                                 {"method", method_},
                                 {"status", CodeName(end.status.error_code())},
                                 {"tenant", end.tenant}};
  if (TellsOfServer(end.status)) line["status_message"] = end.status.error_message();
  if (end.request_id.has_value()) line["request_id"] = *end.request_id;
  if (!end.session_id.empty()) line["session_id"] = end.session_id;
  line["prompt_tokens"] = end.prompt_tokens;
  line["generated_tokens"] = end.generated_tokens;
  if (end.scored_tokens.has_value()) line["scored_tokens"] = *end.scored_tokens;
  if (end.finished.has_value()) {
    const RequestUsage& usage = end.finished->usage;
    line["finish_reason"] = NameOf(*end.finished);
    line["cached_prompt_tokens"] = usage.cached_prompt_tokens;
    line["queue_seconds"] = Seconds(usage.queue_time);
    line["first_token_seconds"] = Seconds(usage.first_token_time);
  }
  line["total_seconds"] = Seconds(clock_.Now() - started_);
  if (!traceparent_.empty()) line["traceparent"] = traceparent_;
  LogFields(line.dump(-1, ' ', /*ensure_ascii=*/true,
                      nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace goldfinch
