#include "server/cli/tls_options.h"

namespace goldfinch {

void AddTls(CLI::App& app, ConnectionFlags& flags) {
  app.add_flag("--tls", flags.tls, "Encrypt; trust whom the system trusts");
  app.add_option("--tls_ca", flags.tls_ca, "PEM file of whom to trust instead");
  app.add_option("--tls_cert", flags.tls_cert, "PEM file of a certificate of your own");
  app.add_option("--tls_key", flags.tls_key, "PEM file of its key");
  app.add_option("--tls_server_name", flags.tls_server_name,
                 "Name in the server's certificate (default: that in --server)");
}

}  // namespace goldfinch
