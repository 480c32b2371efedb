#include "server/cli/call.h"

#include <grpcpp/create_channel.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include "absl/status/status.h"

namespace goldfinch {

std::shared_ptr<grpc::Channel> Connect(const ConnectionFlags& flags) {
  grpc::ChannelArguments arguments;
  // Scores of a long text are larger than the library's 4 MiB.
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(flags.server, grpc::InsecureChannelCredentials(),
                                   arguments);
}

void SetDeadline(const ConnectionFlags& flags, grpc::ClientContext& context) {
  if (flags.timeout <= 0) return;
  const auto timeout = std::chrono::duration_cast<std::chrono::system_clock::duration>(
      std::chrono::duration<double>(flags.timeout));
  context.set_deadline(std::chrono::system_clock::now() + timeout);
}

int Report(const grpc::Status& status) {
  if (status.ok()) return 0;
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::fflush(stdout);
  std::fprintf(stderr, "goldfinch: %s: %s\n", absl::StatusCodeToString(code).c_str(),
               status.error_message().c_str());
  return 1;
}

std::string ReadStandardInput() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

CancelOnSignal::CancelOnSignal(grpc::ClientContext& context) {
  sigemptyset(&signals_);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals_, number);
  pthread_sigmask(SIG_BLOCK, &signals_, &before_);
  thread_ = std::thread([this, &context] {
    for (int number = 0; sigwait(&signals_, &number) == 0 && !stopping_;) {
      if (number == SIGUSR1) continue;
      // Once is asking; a second time is the user's last word.
      if (interrupted_.exchange(true)) std::_Exit(kInterruptedExit);
      context.TryCancel();
    }
  });
}

CancelOnSignal::~CancelOnSignal() {
  stopping_ = true;
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

int CancelOnSignal::Report(const grpc::Status& status) const {
  if (!interrupted_ || status.error_code() != grpc::StatusCode::CANCELLED) {
    return goldfinch::Report(status);
  }
  std::fflush(stdout);
  std::fputs("goldfinch: interrupted\n", stderr);
  return kInterruptedExit;
}

}  // namespace goldfinch
