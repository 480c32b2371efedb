#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"
#include "prometheus/metric_family.h"
#include "server/metrics.h"

namespace goldfinch {
namespace {

// Each connection has a thread of its own while it is open, or says nothing for so long.
constexpr char kThreads[] = "8";
constexpr char kRequestMillis[] = "5000";

}  // namespace

class MetricsEndpoint::Source final : public prometheus::Collectable {
 public:
  explicit Source(std::shared_ptr<const Metrics> metrics)
      : metrics_(std::move(metrics)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    return metrics_->Collect();
  }

 private:
  const std::shared_ptr<const Metrics>
      metrics_;  // shared: a scrape may outlive its owner
};

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer,
                                 std::shared_ptr<Source> source)
    : source_(std::move(source)), exposer_(std::move(exposer)) {}

MetricsEndpoint::~MetricsEndpoint() = default;

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(
    const std::string& address, std::shared_ptr<const Metrics> metrics) {
  std::unique_ptr<prometheus::Exposer> exposer;
  // The library reports every failure by an exception that does not say which.
  try {
    exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", kThreads,
                                 "request_timeout_ms", kRequestMillis});
  } catch (const std::exception&) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address,
                     " for metrics: the port is in use, or the address is "
                     "no IPv4 address of this machine"));
  }
  auto source = std::make_shared<Source>(std::move(metrics));
  exposer->RegisterCollectable(source);
  return std::unique_ptr<MetricsEndpoint>(
      new MetricsEndpoint(std::move(exposer), std::move(source)));
}

int MetricsEndpoint::port() const {
  const std::vector<int> ports = exposer_->GetListeningPorts();
  return ports.empty() ? 0 : ports.front();
}

}  // namespace goldfinch
