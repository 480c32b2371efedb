// Certificates made for a test: an authority, and what it signs.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace goldfinch {

// A certificate and its key, in PEM.
struct Identity {
  std::string certificate;
  std::string key;
};

class Authority {
 public:
  Authority();
  ~Authority();
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  // Whom to trust.
  const std::string& certificate() const { return certificate_; }

  // For localhost and 127.0.0.1, with `name` as its subject.
  Identity Sign(const std::string& name) const;

 private:
  EVP_PKEY* key_;
  X509* x509_;
  std::string certificate_;
};

// A file of the test's, gone with it.
class PemFile {
 public:
  explicit PemFile(const std::string& text, int mode = 0600);
  ~PemFile();
  PemFile(const PemFile&) = delete;
  PemFile& operator=(const PemFile&) = delete;

  const std::string& path() const { return path_; }
  // In one piece.
  void Replace(const std::string& text) const;

 private:
  const std::string path_;
  const int mode_;
};

}  // namespace goldfinch
