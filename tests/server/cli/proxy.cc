#include "tests/server/cli/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

constexpr int kLookMillis = 10;

sockaddr_in Local(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

Proxy::Proxy(int port, const LateConnections& late)
    : server_port_(port),
      late_(late),
      listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = Local(0);
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  GOLDFINCH_CHECK(bind(listener_, generic, size) == 0 && listen(listener_, 16) == 0 &&
                  getsockname(listener_, generic, &size) == 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Run(); });
}

Proxy::~Proxy() {
  stopping_ = true;
  thread_.join();
  close(listener_);
}

std::string Proxy::address() const { return absl::StrCat("127.0.0.1:", port_); }

void Proxy::Run() {
  while (!stopping_) {
    std::vector<pollfd> wanted = {{.fd = listener_, .events = POLLIN, .revents = 0}};
    for (const Link& link : links_) {
      const bool passes = !frozen_ && Clock::now() >= link.begin;
      for (const int fd : {link.client, link.server}) {
        wanted.push_back({.fd = passes ? fd : -1, .events = POLLIN, .revents = 0});
      }
    }
    poll(wanted.data(), wanted.size(), kLookMillis);
    for (std::size_t i = links_.size(); i-- > 0 && !frozen_;) {
      const Link link = links_[i];
      const bool open =
          (wanted[1 + 2 * i].revents == 0 || Pass(link.client, link.server)) &&
          (wanted[2 + 2 * i].revents == 0 || Pass(link.server, link.client));
      if (open) continue;
      Close(link);
      links_.erase(links_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (wanted[0].revents != 0) Accept();
  }
  for (const Link& link : links_) Close(link);
}

void Proxy::Close(const Link& link) {
  close(link.client);
  close(link.server);
}

void Proxy::Accept() {
  const int late = num_accepted_ - late_.first;
  const bool is_late = late >= 0 && late < late_.count;
  const Link link{
      .client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC),
      .server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
      .begin = Clock::now() + (is_late ? late_.delay : std::chrono::milliseconds(0))};
  GOLDFINCH_CHECK(link.client >= 0);
  const sockaddr_in address = Local(server_port_);
  GOLDFINCH_CHECK(connect(link.server, reinterpret_cast<const sockaddr*>(&address),
                          sizeof address) == 0);
  links_.push_back(link);
  ++num_accepted_;
}

// What has come; false when there will be no more.
bool Proxy::Pass(int from, int to) {
  char buffer[16384];
  const ssize_t size = recv(from, buffer, sizeof buffer, 0);
  return size > 0 && send(to, buffer, static_cast<std::size_t>(size), MSG_NOSIGNAL) ==
                         static_cast<ssize_t>(size);
}

}  // namespace goldfinch
