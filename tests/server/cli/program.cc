#include "tests/server/cli/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/check.h"

extern char** environ;

namespace goldfinch {
namespace {

std::string Slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::string NewPath() {
  static std::atomic<int> next = 0;
  return absl::StrCat(testing::TempDir(), "/goldfinch_program_", getpid(), "_", next++);
}

}  // namespace

Program::Program(const std::string& name, const std::vector<std::string>& arguments,
                 const std::string& standard_input)
    : path_(NewPath()) {
  std::ofstream(path_ + ".in", std::ios::binary) << standard_input;
  Start(name, arguments);
}

Program::Program(const std::string& name, const std::vector<std::string>& arguments,
                 Typed)
    : path_(NewPath()) {
  const std::string pipe = path_ + ".in";
  GOLDFINCH_CHECK(mkfifo(pipe.c_str(), 0600) == 0);
  // To write alone would wait here until the program reads. No other program has it: its
  // input would not end.
  input_ = open(pipe.c_str(), O_RDWR | O_CLOEXEC);
  GOLDFINCH_CHECK(input_ >= 0);
  Start(name, arguments);
}

Program::Program(const std::string& name, const std::vector<std::string>& arguments,
                 const Into& into)
    : path_(NewPath()), into_(into.path) {
  std::ofstream(path_ + ".in", std::ios::binary).flush();
  Start(name, arguments);
}

void Program::Start(const std::string& name, const std::vector<std::string>& arguments) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  const auto open = [&](int fd, const std::string& path, int flags) {
    posix_spawn_file_actions_addopen(&files, fd, path.c_str(), flags, 0600);
  };
  open(STDIN_FILENO, path_ + ".in", O_RDONLY);
  open(STDOUT_FILENO, into_.empty() ? path_ + ".out" : into_,
       O_WRONLY | O_CREAT | O_TRUNC);
  open(STDERR_FILENO, path_ + ".err", O_WRONLY | O_CREAT | O_TRUNC);

  const std::string binary =
      name.starts_with('/') ? name : absl::StrCat(GOLDFINCH_BINARY_DIR, "/", name);
  std::vector<char*> argv = {const_cast<char*>(name.c_str())};
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  const int result =
      posix_spawn(&pid_, binary.c_str(), &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  GOLDFINCH_CHECK(result == 0);
}

Program::~Program() {
  if (pid_ > 0) {
    Signal(SIGKILL);
    Wait();
  }
  EndInput();
  for (const char* suffix : {".in", ".out", ".err"}) {
    std::remove((path_ + suffix).c_str());
  }
}

void Program::Type(const std::string& text) const {
  GOLDFINCH_CHECK(write(input_, text.data(), text.size()) ==
                  static_cast<ssize_t>(text.size()));
}

void Program::EndInput() {
  if (input_ >= 0) close(input_);
  input_ = -1;
}

void Program::Signal(int number) const {
  GOLDFINCH_CHECK(pid_ > 0);  // -1 is every process of the machine
  kill(pid_, number);
}
std::string Program::OutSoFar() const {
  return into_.empty() ? Slurp(path_ + ".out") : std::string();
}
std::string Program::ErrSoFar() const { return Slurp(path_ + ".err"); }

ProgramOutput Program::Wait() {
  int status = 0;
  GOLDFINCH_CHECK(waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  ProgramOutput output;
  output.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  output.out = OutSoFar();
  output.err = ErrSoFar();
  return output;
}

ProgramOutput RunProgram(const std::string& name,
                         const std::vector<std::string>& arguments,
                         const std::string& standard_input) {
  return Program(name, arguments, standard_input).Wait();
}

std::string WithoutLog(const std::string& err) {
  std::string others;
  for (const absl::string_view line : absl::StrSplit(err, '\n')) {
    if (!line.empty() && line.front() != '{') absl::StrAppend(&others, line, "\n");
  }
  return others;
}

}  // namespace goldfinch
