// Runs the built programs as a user would.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace goldfinch {

struct ProgramOutput {
  int exit_code = -1;  // 128 + signal when one ended it
  std::string out;
  std::string err;
};

// A running program of the build's bin folder; its output goes to files.
class Program {
 public:
  Program(const std::string& name, const std::vector<std::string>& arguments,
          const std::string& standard_input = "");
  ~Program();  // kills it if it still runs
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Signal(int number) const;
  std::string OutSoFar() const;
  std::string ErrSoFar() const;
  ProgramOutput Wait();

 private:
  std::string path_;  // prefix of its files
  pid_t pid_ = -1;
};

ProgramOutput RunProgram(const std::string& name,
                         const std::vector<std::string>& arguments,
                         const std::string& standard_input = "");

}  // namespace goldfinch
