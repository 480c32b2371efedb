#include "server/cli/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace goldfinch {
namespace {

constexpr std::size_t kPartBytes = std::size_t{1} << 16;

}  // namespace

bool LineReader::Read(std::string& line) {
  std::size_t end = read_.find('\n');
  for (std::size_t seen = 0; end == std::string::npos && !ended_;) {
    if (!Fill()) return false;
    end = read_.find('\n', seen);
    seen = read_.size();
  }
  if (end == std::string::npos && read_.empty()) return false;
  line = read_.substr(0, end);
  read_.erase(0, end == std::string::npos ? end : end + 1);
  return true;
}

// False when a signal came.
bool LineReader::Fill() {
  std::array<pollfd, 2> waits = {pollfd{STDIN_FILENO, POLLIN, 0},
                                 pollfd{signals_.came_fd(), POLLIN, 0}};
  while (poll(waits.data(), waits.size(), -1) < 0 && errno == EINTR) {
  }
  if (waits[1].revents != 0) return false;
  const std::size_t before = read_.size();
  read_.resize(before + kPartBytes);
  const ssize_t count = read(STDIN_FILENO, read_.data() + before, kPartBytes);
  read_.resize(before + static_cast<std::size_t>(count > 0 ? count : 0));
  ended_ = count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN);
  return true;
}

}  // namespace goldfinch
