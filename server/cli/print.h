// What several subcommands print, in one form.
//
// Threads: one.
#pragma once

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>

#include <string>

#include "absl/strings/string_view.h"
#include "goldfinch/v1/generation_service.pb.h"

namespace goldfinch {

// On standard output, at once.
void Print(absl::string_view text);

// Something of it could not be written, and no more can be.
bool OutputIsLost();

// One line, with the names of the contract. Numbers, texts and lists are there when they
// are 0 or empty, too; what can be unset, only where it is set.
void PrintJson(const google::protobuf::Message& message);

// The contract's name of a value without the enum's: "STATE_PAUSED" is "paused".
std::string ShortName(const std::string& name, const std::string& prefix);

double Seconds(const google::protobuf::Duration& duration);

// "prompt 7 tokens (3 cached), generated 5; queue 0.001 s, ..."
std::string UsageText(const v1::Usage& usage);

}  // namespace goldfinch
