#include "tests/hostile/real_server.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <set>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace goldfinch {
namespace {

std::vector<std::string> WithMetrics(std::vector<std::string> flags) {
  flags.push_back("--metrics=127.0.0.1:0");
  return flags;
}

int PortOf(const std::string& address) {
  return std::atoi(address.c_str() + address.rfind(':') + 1);
}

}  // namespace

RealServer::RealServer(const std::vector<std::string>& flags)
    : server_(WithMetrics(flags)) {}

std::shared_ptr<grpc::Channel> RealServer::NewChannel(
    const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
  return grpc::CreateCustomChannel(address(), credentials, DirectChannel());
}

int RealServer::port() const { return PortOf(address()); }

std::string RealServer::Scrape() const {
  return HttpGet(PortOf(server_.metrics()), "/metrics");
}

double RealServer::Metric(const std::string& name) const {
  const std::string metrics = Scrape();
  const std::size_t at = metrics.find("\n" + name + " ");
  EXPECT_NE(at, std::string::npos) << "no metric " << name;
  if (at == std::string::npos) return -1;
  return std::strtod(metrics.c_str() + at + name.size() + 2, nullptr);
}

bool RealServer::BecomesIdle() const {
  return Eventually([this] {
    const std::string metrics = Scrape();
    for (const char* line :
         {"\ngoldfinch_requests_running 0\n",
          "\ngoldfinch_requests_waiting{reason=\"admission\"} 0\n",
          "\ngoldfinch_requests_waiting{reason=\"slow_reader\"} 0\n",
          "\ngoldfinch_cache_pages_running 0\n", "\ngoldfinch_state_slots_used 0\n"}) {
      if (metrics.find(line) == std::string::npos) return false;
    }
    return true;
  });
}

v1::GenerateRequest GreedyRequest(const std::string& text, std::int64_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  return request;
}

std::vector<nlohmann::json> LogLines(const std::string& log) {
  std::vector<nlohmann::json> lines;
  for (const absl::string_view line : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    lines.push_back(nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false));
    EXPECT_TRUE(lines.back().is_object()) << line;
  }
  return lines;
}

std::map<std::string, int> CallEnds(const std::vector<nlohmann::json>& lines) {
  std::map<std::string, int> ends;
  std::set<std::uint64_t> requests;
  for (const nlohmann::json& line : lines) {
    if (!line.is_object() || line.value("event", "") != "request") continue;
    ++ends[line.value("status", "")];
    if (line.contains("request_id")) {
      EXPECT_TRUE(requests.insert(line["request_id"].get<std::uint64_t>()).second)
          << line << " is the second end of a request";
    }
  }
  return ends;
}

}  // namespace goldfinch
