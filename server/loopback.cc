#include "server/loopback.h"

#include <arpa/inet.h>

namespace goldfinch {
namespace {

// Without the port; brackets of an IPv6 address go too.
std::string HostOf(const std::string& address) {
  if (address.starts_with('[')) {
    const std::size_t end = address.find(']');
    return end == std::string::npos ? "" : address.substr(1, end - 1);
  }
  return address.substr(0, address.rfind(':'));
}

}  // namespace

bool IsLoopback(const std::string& address) {
  if (address.starts_with("unix:")) return true;
  const std::string host = HostOf(address);
  if (host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace goldfinch
