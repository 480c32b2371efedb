#include "server/cli/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_interceptor.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/guarded_file.h"
#include "server/loopback.h"
#include "server/tenants/tenant.h"

namespace goldfinch {
namespace {

namespace experimental = grpc::experimental;

constexpr std::size_t kMaxPemBytes = std::size_t{1} << 20;

bool UsesTls(const ConnectionFlags& flags) {
  return flags.tls || !flags.tls_ca.empty() || !flags.tls_cert.empty();
}

// Puts the key into the headers of a call.
class KeySender final : public experimental::Interceptor {
 public:
  explicit KeySender(std::string header) : header_(std::move(header)) {}

  void Intercept(experimental::InterceptorBatchMethods* methods) override {
    using Point = experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(Point::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", header_);
    }
    methods->Proceed();
  }

 private:
  const std::string header_;
};

class KeySenders final : public experimental::ClientInterceptorFactoryInterface {
 public:
  explicit KeySenders(const std::string& key) : header_("Bearer " + key) {}
  experimental::Interceptor* CreateClientInterceptor(
      experimental::ClientRpcInfo*) override {
    return new KeySender(header_);
  }

 private:
  const std::string header_;
};

absl::StatusOr<grpc::SslCredentialsOptions> ReadTls(const ConnectionFlags& flags) {
  grpc::SslCredentialsOptions options;
  const auto read = [](const std::string& path, const char* what, std::string& pem) {
    if (path.empty()) return absl::OkStatus();
    absl::StatusOr<std::string> text =
        ReadGuardedFile(path, what, kMaxPemBytes, FileGuard::kNone);
    if (text.ok()) pem = *std::move(text);
    return text.status();
  };
  absl::Status status =
      read(flags.tls_ca, "the file of --tls_ca", options.pem_root_certs);
  if (status.ok()) {
    status = read(flags.tls_cert, "the file of --tls_cert", options.pem_cert_chain);
  }
  if (status.ok()) {
    status = read(flags.tls_key, "the file of --tls_key", options.pem_private_key);
  }
  if (!status.ok()) return status;
  return options;
}

// What to connect with, as the files are now: they may have been renewed. Where one
// cannot be read nobody is trusted, and the connection fails: with nothing to go by, the
// library would trust whom the system trusts, and might send them the key.
grpc::SslCredentialsOptions TlsNow(const ConnectionFlags& flags) {
  absl::StatusOr<grpc::SslCredentialsOptions> options = ReadTls(flags);
  if (options.ok()) return *std::move(options);
  grpc::SslCredentialsOptions nobody;
  nobody.pem_root_certs = "no certificate";
  return nobody;
}

bool IsPlain(char c) { return c > ' ' && c <= '~'; }

absl::Status CheckKey(const ConnectionFlags& flags) {
  const std::string& key = flags.key;
  if (key.empty()) return absl::OkStatus();
  if (key.size() > kMaxKeyBytes || !std::all_of(key.begin(), key.end(), IsPlain)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the key must be at most ", kMaxKeyBytes, " ASCII characters without blanks"));
  }
  if (UsesTls(flags) || flags.insecure_send_key) return absl::OkStatus();
  for (const std::string& address : AddressesOf(flags)) {
    if (IsLoopback(address)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the key would be sent to ", address,
                     " in the clear; use --tls or --tls_ca, or --insecure_send_key"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> AddressesOf(const ConnectionFlags& flags) {
  std::vector<std::string> addresses =
      absl::StrSplit(flags.server, ',', absl::SkipEmpty());
  if (addresses.empty()) addresses.push_back(flags.server);
  return addresses;
}

absl::Status CheckConnection(const ConnectionFlags& flags) {
  if (flags.tls_cert.empty() != flags.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "--tls_cert and --tls_key are given together or not at all");
  }
  const absl::Status status = ReadTls(flags).status();
  return status.ok() ? CheckKey(flags) : status;
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          const ConnectionFlags& flags,
                                          const Keepalive& keepalive) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                   static_cast<int>(keepalive.interval.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                   static_cast<int>(keepalive.patience.count()));
  // A prompt of minutes is read without a word from either side.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Scores of a long text are larger than the library's 4 MiB.
  arguments.SetMaxReceiveMessageSize(-1);
  // A new channel connects at once, rather than when an older one's backoff is over.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // What is on this machine is not looked for by way of another one.
  if (IsLoopback(address)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (!flags.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(flags.tls_server_name);
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials =
      grpc::InsecureChannelCredentials();
  if (UsesTls(flags)) {
    credentials = grpc::SslCredentials(TlsNow(flags));
  }
  std::vector<std::unique_ptr<experimental::ClientInterceptorFactoryInterface>> senders;
  if (!flags.key.empty()) senders.push_back(std::make_unique<KeySenders>(flags.key));
  return experimental::CreateCustomChannelWithInterceptors(address, credentials,
                                                           arguments, std::move(senders));
}

}  // namespace goldfinch
