// A request as it is at one moment, for whoever looks after the server: whose it is, what
// it waits for and how far it is; never what it says.
//
// Threads: values.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "scheduler/request.h"

namespace goldfinch {

enum class RequestState {
  kWaiting,   // has not run yet
  kPrompt,    // its prompt is being fed
  kDecoding,  // it generates
  kPaused,    // until its client has read what there is
  kAside,     // put aside for another tenant
};

struct RequestInfo {
  RequestId id{};
  std::string tenant;
  RequestKind kind = RequestKind::kGenerate;
  RequestState state = RequestState::kWaiting;
  std::int32_t priority = 0;
  std::int64_t num_candidates = 1;
  std::int64_t prompt_tokens = 0;     // the base's history included
  std::int64_t fed_tokens = 0;        // of those: what has been through the model
  std::int64_t generated_tokens = 0;  // of all candidates
  std::int64_t max_tokens = 0;        // of each
  std::chrono::nanoseconds age{0};    // since Request::arrived
};

// Which of them are wanted.
struct RequestFilter {
  std::string tenant = {};           // empty: all
  RequestId after{};                 // those with greater ids
  std::size_t limit = SIZE_MAX;      // the first so many
};

}  // namespace goldfinch
