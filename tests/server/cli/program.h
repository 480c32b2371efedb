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

// A running program, by its path or of the build's bin folder; its output goes to files.
class Program {
 public:
  struct Typed {};  // its standard input comes from Type
  struct Into {     // its standard output goes to this file, and is not read
    std::string path;
  };

  Program(const std::string& name, const std::vector<std::string>& arguments,
          const std::string& standard_input = "");
  Program(const std::string& name, const std::vector<std::string>& arguments, Typed);
  Program(const std::string& name, const std::vector<std::string>& arguments,
          const Into& into);
  ~Program();  // kills it if it still runs
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Type(const std::string& text) const;
  void EndInput();
  pid_t pid() const { return pid_; }
  void Signal(int number) const;
  std::string OutSoFar() const;
  std::string ErrSoFar() const;
  ProgramOutput Wait();

 private:
  void Start(const std::string& name, const std::vector<std::string>& arguments);

  const std::string path_;  // prefix of its files
  const std::string into_;  // instead of the one for its output; empty: that one
  int input_ = -1;          // where Type writes
  pid_t pid_ = -1;
};

ProgramOutput RunProgram(const std::string& name,
                         const std::vector<std::string>& arguments,
                         const std::string& standard_input = "");

// Of what a server wrote, the lines that are no lines of its log.
std::string WithoutLog(const std::string& err);

}  // namespace goldfinch
