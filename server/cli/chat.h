// `goldfinch chat`: a session in the terminal. Lines of text in, answers streamed out.
#pragma once

#include <cstdint>
#include <string>

#include "server/cli/commands.h"
#include "server/cli/input.h"
#include "server/cli/sampling.h"

namespace goldfinch {

struct ChatFlags {
  ConnectionFlags connection;
  std::string session;  // empty: a new one
  TextFlags prompt;     // what a new one begins with
  SamplingFlags sampling;
  std::int32_t priority = 0;
};

// A seed is of the first answer asked for; the next one has the number after it, and so
// on. Before a line the session is copied, so that it can be taken back; such a copy is
// deleted when the chat ends, or goes after its time to live where the server does not
// answer then.
//
// Until /quit or the end of the input, or, where that is no terminal, the first line that
// fails. Returns the exit code: 1 when the session cannot be had or a line failed, 2 when
// it was a flag or a line that cannot be sent.
int RunChat(const ChatFlags& flags);

}  // namespace goldfinch
