// Options that several subcommands have, and what their values are checked with.
//
// Threads: one; what is filled outlives the parsing.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "server/cli/commands.h"
#include "server/cli/input.h"
#include "server/cli/sampling.h"

namespace goldfinch {

// Of numbers: above 0; in [1, limit]; 0 or more.
CLI::Validator Positive();
CLI::Validator AtMost(std::int64_t limit);
CLI::Validator NonNegative();
// Of what goes into a message as a string.
CLI::Validator Utf8();

// A text, by `flag`, and a file that has it, by `flag`_file: "--prompt,--system".
struct TextOptionPair {
  CLI::Option* text;
  CLI::Option* file;
};
TextOptionPair AddText(CLI::App& app, const std::string& flag, TextFlags& flags,
                       const std::string& help);
// In the place of `text`.
CLI::Option* AddTokens(CLI::App& app, const std::string& flag, TokenFlags& flags,
                       const TextOptionPair& text);

// Which server, and for how long; as whom, besides; and how often, of a command whose
// calls can be made again.
void AddServer(CLI::App& app, ConnectionFlags& flags);
void AddConnection(CLI::App& app, ConnectionFlags& flags);
void AddPatientConnection(CLI::App& app, ConnectionFlags& flags);

// By the names of the contract.
void AddSampling(CLI::App& app, SamplingFlags& flags);

}  // namespace goldfinch
