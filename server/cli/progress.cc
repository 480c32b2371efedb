#include "server/cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace goldfinch {
namespace {

constexpr auto kBetweenDrawings = std::chrono::milliseconds(100);
constexpr std::int64_t kBarWidth = 30;

std::string Megabytes(double bytes) { return absl::StrFormat("%.1f MB", bytes * 1e-6); }

}  // namespace

Progress::Progress(std::string verb)
    : verb_(std::move(verb)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      drawn_(start_) {}

void Progress::Add(std::int64_t bytes) {
  done_ += bytes;
  const Clock::time_point now = Clock::now();
  if (!terminal_ || now - drawn_ < kBetweenDrawings) return;
  drawn_ = now;
  Draw();
}

void Progress::Finish() {
  Erase();
  std::fprintf(stderr, "%s %lld bytes, %s/s\n", verb_.c_str(),
               static_cast<long long>(done_), Megabytes(BytesPerSecond()).c_str());
}

void Progress::Draw() {
  const std::string rate = absl::StrCat(Megabytes(BytesPerSecond()), "/s");
  std::string line = Megabytes(static_cast<double>(done_));
  if (total_ > 0) {
    const std::int64_t whole = std::max(total_, done_);
    const auto filled = static_cast<std::size_t>(kBarWidth * done_ / whole);
    line = absl::StrCat("[", std::string(filled, '='),
                        std::string(kBarWidth - filled, ' '), "] ", 100 * done_ / whole,
                        "%  ", line, " of ", Megabytes(static_cast<double>(total_)));
  }
  std::fprintf(stderr, "\r\033[K%s  %s", line.c_str(), rate.c_str());
  std::fflush(stderr);
  visible_ = true;
}

void Progress::Erase() {
  if (std::exchange(visible_, false)) std::fputs("\r\033[K", stderr);
}

double Progress::BytesPerSecond() const {
  // A moment at least: nothing is infinitely fast.
  const double seconds =
      std::max(std::chrono::duration<double>(Clock::now() - start_).count(), 1e-6);
  return static_cast<double>(done_) / seconds;
}

}  // namespace goldfinch
