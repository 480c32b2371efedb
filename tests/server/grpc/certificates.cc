#include "tests/server/grpc/certificates.h"

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr long kDay = 24 * 60 * 60;

EVP_PKEY* NewKey() {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  GOLDFINCH_CHECK(key != nullptr);
  return key;
}

template <typename Write>
std::string ToPem(const Write& write) {
  BIO* const bio = BIO_new(BIO_s_mem());
  GOLDFINCH_CHECK(write(bio) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string pem(data, static_cast<std::size_t>(size));
  BIO_free(bio);
  return pem;
}

std::string CertificatePem(X509* certificate) {
  return ToPem([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

void AddExtension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  GOLDFINCH_CHECK(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// Of `key`, not yet signed.
X509* NewCertificate(EVP_PKEY* key, const std::string& name) {
  static std::atomic<long> serial = 1;
  X509* const certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -kDay);
  X509_gmtime_adj(X509_getm_notAfter(certificate), kDay);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1,
                             0);
  return certificate;
}

std::string NewPath() {
  static std::atomic<int> next = 0;
  return absl::StrCat(testing::TempDir(), "/goldfinch_pem_", getpid(), "_", next++);
}

}  // namespace

Authority::Authority() : key_(NewKey()), x509_(NewCertificate(key_, "test authority")) {
  X509_set_issuer_name(x509_, X509_get_subject_name(x509_));
  AddExtension(x509_, x509_, NID_basic_constraints, "critical,CA:TRUE");
  GOLDFINCH_CHECK(X509_sign(x509_, key_, EVP_sha256()) > 0);
  certificate_ = CertificatePem(x509_);
}

Authority::~Authority() {
  X509_free(x509_);
  EVP_PKEY_free(key_);
}

Identity Authority::Sign(const std::string& name) const {
  EVP_PKEY* const key = NewKey();
  X509* const certificate = NewCertificate(key, name);
  X509_set_issuer_name(certificate, X509_get_subject_name(x509_));
  AddExtension(certificate, x509_, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  GOLDFINCH_CHECK(X509_sign(certificate, key_, EVP_sha256()) > 0);
  Identity identity;
  identity.certificate = CertificatePem(certificate);
  identity.key = ToPem([&](BIO* bio) {
    return PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
  X509_free(certificate);
  EVP_PKEY_free(key);
  return identity;
}

PemFile::PemFile(const std::string& text, int mode) : path_(NewPath()), mode_(mode) {
  Replace(text);
}

PemFile::~PemFile() { std::remove(path_.c_str()); }

void PemFile::Replace(const std::string& text) const {
  const std::string draft = path_ + ".new";
  std::ofstream(draft, std::ios::binary) << text;
  GOLDFINCH_CHECK(chmod(draft.c_str(), static_cast<mode_t>(mode_)) == 0);
  GOLDFINCH_CHECK(std::rename(draft.c_str(), path_.c_str()) == 0);
}

}  // namespace goldfinch
