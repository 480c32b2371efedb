#include "server/cli/screen.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "engine/check.h"
#include "server/cli/print.h"

namespace goldfinch {
namespace {

// Control sequences of every terminal of the last decades.
constexpr char kEnter[] = "\x1b[?1049h\x1b[?25l";  // other screen, no cursor
constexpr char kLeave[] = "\x1b[?25h\x1b[?1049l";
constexpr char kHome[] = "\x1b[H";
constexpr char kClearLine[] = "\x1b[K";
constexpr char kClearBelow[] = "\x1b[J";

bool IsTerminal() {
  const char* kind = std::getenv("TERM");
  return isatty(STDOUT_FILENO) == 1 && kind != nullptr &&
         absl::string_view(kind) != "dumb" && *kind != '\0';
}

struct Size {
  std::size_t rows = 24, columns = 80;
};

Size TerminalSize() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 ||
      size.ws_col == 0)
    return {};
  return {size.ws_row, size.ws_col};
}

}  // namespace

Screen::Screen() : terminal_(IsTerminal()) {
  sigset_t mine;
  sigemptyset(&mine);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&mine, number);
  if (terminal_) {
    for (const int number : {SIGWINCH, SIGTSTP, SIGCONT}) sigaddset(&mine, number);
  }
  pthread_sigmask(SIG_BLOCK, &mine, &before_);
  signals_ = signalfd(-1, &mine, SFD_CLOEXEC | SFD_NONBLOCK);
  GOLDFINCH_CHECK(signals_ >= 0);
  keys_ = terminal_ && tcgetattr(STDIN_FILENO, &found_) == 0;
  Enter();
}

Screen::~Screen() {
  Leave();
  close(signals_);
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void Screen::Enter() {
  if (!terminal_) return;
  if (keys_) {
    termios raw = found_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);  // ctrl-C is still a signal
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  Print(kEnter);
}

void Screen::Leave() {
  if (!terminal_) return;
  Print(kLeave);
  if (keys_) tcsetattr(STDIN_FILENO, TCSANOW, &found_);
}

void Screen::Draw(const std::vector<std::string>& lines) {
  std::string text;
  if (!terminal_) {
    if (drawn_) text = "\n";
    for (const std::string& line : lines) text += line + "\n";
  } else {
    const Size size = TerminalSize();
    text = kHome;
    // The last row's end gets no newline: the terminal would scroll.
    for (std::size_t i = 0; i < std::min(lines.size(), size.rows); ++i) {
      if (i > 0) text += "\r\n";
      text += lines[i].substr(0, size.columns);
      // In the last column the cursor stays on the character that was written there.
      if (lines[i].size() < size.columns) text += kClearLine;
    }
    if (lines.size() < size.rows) text += "\r\n" + std::string(kClearBelow);
  }
  drawn_ = true;
  Print(text);
}

Screen::Event Screen::Wait(std::chrono::steady_clock::time_point until) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return Event::kTime;
    pollfd ready[] = {{.fd = signals_, .events = POLLIN, .revents = 0},
                      {.fd = keys_ ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0}};
    constexpr std::chrono::milliseconds kLongest(3600 * 1000);
    poll(ready, std::size(ready), static_cast<int>(std::min(left, kLongest).count()));
    if (ready[0].revents != 0) {
      if (const Event event = OnSignal(); event != Event::kTime) return event;
    }
    if (ready[1].revents != 0 && OnKeys()) return Event::kQuit;
  }
}

Screen::Event Screen::OnSignal() {
  signalfd_siginfo info;
  if (read(signals_, &info, sizeof info) != sizeof info) return Event::kTime;
  switch (info.ssi_signo) {
    case SIGWINCH:
      return Event::kRedraw;
    case SIGTSTP:
      Leave();
      raise(SIGSTOP);
      return Event::kTime;  // SIGCONT comes with what goes on
    case SIGCONT:
      Enter();
      return Event::kRedraw;
    default:
      return Event::kInterrupt;
  }
}

bool Screen::OnKeys() {
  char keys[64];
  const ssize_t count = read(STDIN_FILENO, keys, sizeof keys);
  if (count <= 0) keys_ = false;  // the terminal is gone
  return std::any_of(keys, keys + std::max<ssize_t>(count, 0),
                     [](char key) { return key == 'q' || key == 'Q'; });
}

}  // namespace goldfinch
