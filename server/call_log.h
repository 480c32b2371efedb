// One line of the log for each finished Generate, Score, CreateSession or AppendToSession
// call: whose, how long, how much and how it ended; never what was asked or answered.
// Messages of statuses that tell of the server, and not of the request, are in it.
//
// A caller's W3C traceparent, if it is one, is in the line and in the call's initial
// metadata, so that a line can be found from a trace and the other way round.
//
// Threads: thread-compatible.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "scheduler/clock.h"
#include "scheduler/request.h"

namespace goldfinch {

// Whether it has the form of version 00: 00-32 digits-16 digits-2 digits, hexadecimal in
// lower case, neither id all zeros. What has not could be anything, and is not repeated.
bool IsTraceparent(std::string_view text);

// The id that the log and the admin service have for a request, in the call's initial
// metadata as goldfinch-request-id: before anything is sent.
void TellRequestId(std::uint64_t id, grpc::CallbackServerContext& context);

class CallLog {
 public:
  // At the start of the call, before anything is sent.
  CallLog(const char* method, grpc::CallbackServerContext& context, const Clock& clock);

  TimePoint started() const { return started_; }

  // What is known when the call ends. Lengths and times of a call that did not run are 0.
  // Lengths mean what they do in the usage, however the call ended.
  struct End {
    grpc::Status status;
    std::string tenant;      // empty: nobody
    std::string session_id;  // had, or asked for in vain; empty: none
    std::optional<std::uint64_t> request_id;
    std::int64_t prompt_tokens = 0;
    std::int64_t generated_tokens = 0;
    std::optional<std::int64_t> scored_tokens;  // of a Score call
    std::optional<StreamEvent> finished;        // the last candidate's end, or the scores
  };
  void Write(const End& end) const;

 private:
  const char* const method_;
  const Clock& clock_;
  const TimePoint started_;
  std::string traceparent_;  // empty: none
};

}  // namespace goldfinch
