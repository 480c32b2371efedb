// The server program on the demo model, and the client program against it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/server/cli/program.h"

namespace goldfinch {

class DemoServer {
 public:
  // On a free port, and without metrics unless the flags say otherwise: closing them
  // takes seconds. Returns when it serves.
  explicit DemoServer(const std::vector<std::string>& flags = {});

  const std::string& address() const { return address_; }
  const std::string& metrics() const { return metrics_; }  // HOST:PORT
  const std::string& admin() const { return admin_; }      // likewise
  Program& program() { return program_; }
  // Ends what runs at once, and waits until it is gone.
  ProgramOutput Stop();

 private:
  Program program_;
  std::string address_, metrics_, admin_;
};

// `goldfinch ARGUMENTS --server=ADDRESS`.
ProgramOutput Goldfinch(const std::string& address, std::vector<std::string> arguments,
                        const std::string& standard_input = "");

// The same, without the last newline of its output; it must succeed.
std::string GoldfinchLine(const std::string& address, std::vector<std::string> arguments);

// `sessions get --json`; it must succeed.
nlohmann::json SessionJson(const std::string& address, const std::string& id);

// A folder of this test's own, removed with it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  // Names of what is in it, in order.
  std::vector<std::string> Names() const;

 private:
  std::string path_;
};

}  // namespace goldfinch
