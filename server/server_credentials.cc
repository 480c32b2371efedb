#include "server/server_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "engine/sync/mutex.h"
#include "server/guarded_file.h"
#include "server/log.h"

namespace goldfinch {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Certificate = std::unique_ptr<X509, Free>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Free>;

std::unique_ptr<BIO, Free> Reader(const std::string& pem) {
  return std::unique_ptr<BIO, Free>(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// The library would ask whoever sits at the terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

// The first certificate; null when there is none, or when one of them is broken.
Certificate FirstCertificate(const std::string& pem) {
  const auto bio = Reader(pem);
  Certificate first(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
  if (first == nullptr) return nullptr;
  ERR_clear_error();
  while (Certificate(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr)) !=
         nullptr) {
  }
  // The end is told as an error too.
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) return nullptr;
  return first;
}

struct Pems {
  std::string certificate, key, client_ca;
};

absl::Status Check(const Pems& pems) {
  const Certificate certificate = FirstCertificate(pems.certificate);
  if (certificate == nullptr) {
    return absl::InvalidArgumentError("the file of --tls_cert has no certificate in PEM");
  }
  const PrivateKey key(
      PEM_read_bio_PrivateKey(Reader(pems.key).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        "the file of --tls_key has no private key in PEM, without a passphrase");
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(
        "the key of --tls_key is not that of the certificate of --tls_cert");
  }
  if (!pems.client_ca.empty() && FirstCertificate(pems.client_ca) == nullptr) {
    return absl::InvalidArgumentError(
        "the file of --tls_client_ca has no certificate in PEM");
  }
  return absl::OkStatus();
}

absl::StatusOr<Pems> Read(const TlsFiles& files) {
  Pems pems;
  const auto read = [](const std::string& path, const char* what, FileGuard guard,
                       std::string& pem) -> absl::Status {
    absl::StatusOr<std::string> text = ReadGuardedFile(path, what, kMaxFileBytes, guard);
    if (text.ok()) pem = *std::move(text);
    return text.status();
  };
  absl::Status status = read(files.certificate, "the file of --tls_cert",
                             FileGuard::kNotWritableByAll, pems.certificate);
  if (status.ok()) {
    status =
        read(files.key, "the file of --tls_key", FileGuard::kNotReadableByAll, pems.key);
  }
  if (status.ok() && !files.client_ca.empty()) {
    status = read(files.client_ca, "the file of --tls_client_ca",
                  FileGuard::kNotWritableByAll, pems.client_ca);
    // An empty one would let everybody in.
    if (status.ok() && pems.client_ca.empty()) {
      status = absl::InvalidArgumentError("the file of --tls_client_ca is empty");
    }
  }
  if (!status.ok()) return status;
  status = Check(pems);
  ERR_clear_error();
  if (!status.ok()) return status;
  return pems;
}

// What changes when a file does: which it is, its size and its times.
using Print = std::array<std::int64_t, 7>;

Print PrintOf(const std::string& path) {
  struct stat info {};
  if (path.empty() || stat(path.c_str(), &info) != 0) return {};
  return {static_cast<std::int64_t>(info.st_dev),
          static_cast<std::int64_t>(info.st_ino),
          info.st_size,
          info.st_mtim.tv_sec,
          info.st_mtim.tv_nsec,
          info.st_ctim.tv_sec,
          info.st_ctim.tv_nsec};
}

using Prints = std::array<Print, 3>;

Prints PrintsOf(const TlsFiles& files) {
  return {PrintOf(files.certificate), PrintOf(files.key), PrintOf(files.client_ca)};
}

// Why not gRPC's own watcher of files: in this version it throws the credentials in use
// away before it knows whether the new ones are any good.
class ReloadingCredentials final : public grpc::ServerCredentials {
 public:
  ReloadingCredentials(TlsFiles files, Prints prints, Pems pems)
      : files_(std::move(files)), prints_(prints), pems_(std::move(pems)) {}
  ~ReloadingCredentials() override {
    for (const auto& port : ports_) grpc_server_credentials_release(port->credentials);
  }

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {
    GOLDFINCH_CHECK(false);  // calls are authenticated by their methods
  }

 private:
  // gRPC keeps what it was given last with each port, and asks for each by itself.
  struct Port {
    ReloadingCredentials* owner;
    std::uint64_t used = 0;  // which of the certificates it has; guarded by owner->mu_
    grpc_server_credentials* credentials = nullptr;
  };

  // Before the server starts.
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    Port* const port =
        ports_.emplace_back(std::make_unique<Port>(Port{.owner = this})).get();
    port->credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            files_.client_ca.empty()
                ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
            Fetch, port));
    return grpc_server_add_http2_port(server, address.c_str(), port->credentials);
  }

  static grpc_ssl_certificate_config_reload_status Fetch(
      void* data, grpc_ssl_server_certificate_config** config) {
    auto* const port = static_cast<Port*>(data);
    return port->owner->Refresh(*port, config);
  }

  // Before the first handshake and before each.
  grpc_ssl_certificate_config_reload_status Refresh(
      Port& port, grpc_ssl_server_certificate_config** config) {
    const MutexLock lock(mu_);
    const Prints now = PrintsOf(files_);
    if (now != prints_) {
      // First: what changes while it is read is read again.
      prints_ = now;
      absl::StatusOr<Pems> pems = Read(files_);
      if (pems.ok()) {
        pems_ = *std::move(pems);
        ++read_;
        LogInfo("the TLS certificate was read again");
      } else {
        LogWarning(absl::StrCat("the TLS certificate stays as it was: ",
                                pems.status().message()));
        // For no fault of the files: they are read again at the next handshake.
        if (absl::IsUnavailable(pems.status())) prints_ = {};
      }
    }
    if (std::exchange(port.used, read_) == read_)
      return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {pems_.key.c_str(),
                                             pems_.certificate.c_str()};
    // The library asserts that there is an authority even when no client is asked for a
    // certificate; then it is of no consequence which.
    const std::string& ca = pems_.client_ca.empty() ? pems_.certificate : pems_.client_ca;
    *config = grpc_ssl_server_certificate_config_create(ca.c_str(), &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const TlsFiles files_;
  Mutex mu_;
  Prints prints_ ABSL_GUARDED_BY(mu_);           // of what was read last, good or bad
  Pems pems_ ABSL_GUARDED_BY(mu_);               // the last good ones
  std::uint64_t read_ ABSL_GUARDED_BY(mu_) = 1;  // and which these are
  std::vector<std::unique_ptr<Port>> ports_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files) {
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  const Prints prints = PrintsOf(files);
  absl::StatusOr<Pems> pems = Read(files);
  if (!pems.ok()) return pems.status();
  return std::make_shared<ReloadingCredentials>(files, prints, *std::move(pems));
}

}  // namespace goldfinch
