// What the tests of sessions do through a channel, each in one line.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "goldfinch/v1/session_service.grpc.pb.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {

inline absl::Status ToStatus(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

using SessionOr = absl::StatusOr<v1::Session>;

inline SessionOr CreateSession(TestServer& server, const std::string& text = "") {
  grpc::ClientContext context;
  v1::CreateSessionRequest request;
  if (!text.empty()) request.set_text(text);
  v1::CreateSessionResponse response;
  const auto status = server.sessions().CreateSession(&context, request, &response);
  return status.ok() ? SessionOr(response.session()) : ToStatus(status);
}

inline SessionOr GetSession(TestServer& server, const std::string& id) {
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_session_id(id);
  v1::GetSessionResponse response;
  const auto status = server.sessions().GetSession(&context, request, &response);
  return status.ok() ? SessionOr(response.session()) : ToStatus(status);
}

inline SessionOr ForkSession(TestServer& server, const std::string& id) {
  grpc::ClientContext context;
  v1::ForkSessionRequest request;
  request.set_session_id(id);
  v1::ForkSessionResponse response;
  const auto status = server.sessions().ForkSession(&context, request, &response);
  return status.ok() ? SessionOr(response.session()) : ToStatus(status);
}

inline SessionOr ParkSession(TestServer& server, const std::string& id) {
  grpc::ClientContext context;
  v1::ParkSessionRequest request;
  request.set_session_id(id);
  v1::ParkSessionResponse response;
  const auto status = server.sessions().ParkSession(&context, request, &response);
  return status.ok() ? SessionOr(response.session()) : ToStatus(status);
}

inline absl::Status DeleteSession(TestServer& server, const std::string& id) {
  grpc::ClientContext context;
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  v1::DeleteSessionResponse response;
  return ToStatus(server.sessions().DeleteSession(&context, request, &response));
}

inline absl::StatusOr<std::string> ExportSession(TestServer& server,
                                                 const std::string& id) {
  grpc::ClientContext context;
  v1::ExportSessionRequest request;
  request.set_session_id(id);
  const auto reader = server.sessions().ExportSession(&context, request);
  std::string snapshot;
  std::int64_t total = 0;
  v1::ExportSessionResponse response;
  while (reader->Read(&response)) {
    if (snapshot.empty()) total = response.total_bytes();
    snapshot += response.chunk();
  }
  const absl::Status status = ToStatus(reader->Finish());
  if (!status.ok()) return status;
  EXPECT_EQ(static_cast<std::int64_t>(snapshot.size()), total);
  return snapshot;
}

inline SessionOr ImportSession(TestServer& server, const std::string& snapshot,
                               std::size_t chunk_bytes = 1 << 20) {
  grpc::ClientContext context;
  v1::ImportSessionResponse response;
  const auto writer = server.sessions().ImportSession(&context, &response);
  v1::ImportSessionRequest request;
  for (std::size_t at = 0; at < snapshot.size(); at += chunk_bytes) {
    request.set_chunk(snapshot.substr(at, chunk_bytes));
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  const auto status = writer->Finish();
  return status.ok() ? SessionOr(response.session()) : ToStatus(status);
}

// One turn: `text` after the history of a session.
inline v1::GenerateRequest TurnRequest(const std::string& id, const std::string& text,
                                       std::int64_t max_tokens) {
  v1::GenerateRequest request = TextRequest(text, max_tokens);
  request.set_session(id);
  return request;
}

inline v1::GenerateRequest ResumeRequest(const std::string& id, std::int64_t received) {
  v1::GenerateRequest request;
  request.mutable_resume()->set_session_id(id);
  request.mutable_resume()->set_tokens_received(received);
  return request;
}

// A conversation as a client knows it: what it sent and what came back.
class Conversation {
 public:
  // What `request` would give after it; its text joins the history, then the answer.
  std::vector<TokenId> Expect(const v1::GenerateRequest& request) {
    for (const TokenId token : Encode(request.text())) history_.push_back(token);
    v1::GenerateRequest whole = request;
    whole.clear_session();
    whole.mutable_tokens()->mutable_ids()->Assign(history_.begin(), history_.end());
    const std::vector<TokenId> answer = ExpectedTokens(whole);
    history_.insert(history_.end(), answer.begin(), answer.end());
    return answer;
  }
  std::int64_t num_tokens() const { return std::ssize(history_); }

 private:
  std::vector<TokenId> history_;
};

}  // namespace goldfinch
