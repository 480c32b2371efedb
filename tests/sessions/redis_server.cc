#include "tests/sessions/redis_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr const char* kProgram = "/usr/bin/redis-server";

}  // namespace

bool RedisServer::Available() { return access(kProgram, X_OK) == 0; }

RedisServer::RedisServer() {
  std::string name = ::testing::TempDir() + "/redis_XXXXXX";
  folder_ = mkdtemp(name.data());
  socket_ = folder_ + "/s";
  Start();
}

RedisServer::~RedisServer() {
  Kill();
  std::filesystem::remove_all(folder_);
}

void RedisServer::Start() {
  pid_ = fork();
  GOLDFINCH_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // not left behind by a test that is killed
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    execl(kProgram, kProgram, "--port", "0", "--unixsocket", socket_.c_str(), "--save",
          "", "--appendonly", "no", "--dir", folder_.c_str(), nullptr);
    _exit(9);
  }
  // It has no way to say that it listens but to answer.
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (Run({"PING"}) != "PONG") {
    GOLDFINCH_CHECK(std::chrono::steady_clock::now() < give_up);
    std::this_thread::yield();
  }
}

int RedisServer::Listen() {
  for (int attempt = 0; attempt < 100; ++attempt) {
    // One that was free a moment ago; another may have taken it.
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    GOLDFINCH_CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
    GOLDFINCH_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    close(fd);
    const int port = ntohs(address.sin_port);
    if (Run({"CONFIG", "SET", "port", std::to_string(port)}) == "OK") return port;
  }
  GOLDFINCH_CHECK(false);
  return 0;
}

void RedisServer::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::Stop() { Signal(SIGSTOP); }
void RedisServer::Continue() { Signal(SIGCONT); }

void RedisServer::Signal(int number) const {
  GOLDFINCH_CHECK(pid_ > 0);  // -1 is every process of the machine
  kill(pid_, number);
}

std::string RedisServer::Run(const std::vector<std::string>& words) const {
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  redisContext* context = redisConnectUnix(socket_.c_str());
  std::string answer;
  if (context != nullptr && context->err == 0) {
    auto* reply = static_cast<redisReply*>(
        redisCommandArgv(context, static_cast<int>(argv.size()), argv.data(), nullptr));
    if (reply != nullptr) {
      answer = reply->str != nullptr ? std::string(reply->str, reply->len)
                                     : std::to_string(reply->integer);
      freeReplyObject(reply);
    }
  }
  if (context != nullptr) redisFree(context);
  return answer;
}

}  // namespace goldfinch
