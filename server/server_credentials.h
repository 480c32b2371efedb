// TLS of the server's port, from files that may change while it serves.
//
// The files are looked at before every handshake, so a renewed certificate is in use
// from the next connection on; connections that are open are left alone. Files that do
// not make sense, or not together (a renewal half done), are logged once and the last
// good ones stay in use.
//
// Threads: any.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace goldfinch {

// Paths of PEM files.
struct TlsFiles {
  std::string certificate;  // with its chain; empty: no TLS
  std::string key;
  std::string client_ca;  // who signs certificates of clients; empty: they need none
};

// Without TLS, those of a plain port. INVALID_ARGUMENT with one line that names the flag:
// a file that cannot be read or understood, a key that everybody may read or that is not
// the certificate's. To be kept until the server is gone.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

}  // namespace goldfinch
