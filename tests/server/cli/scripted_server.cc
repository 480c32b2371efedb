#include "tests/server/cli/scripted_server.h"

#include <grpcpp/server_builder.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/check.h"

namespace goldfinch {

class ScriptedServer::Generation final : public v1::GenerationService::Service {
 public:
  explicit Generation(ScriptedServer& owner) : owner_(owner) {}

  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    std::size_t index = 0;
    {
      const MutexLock lock(owner_.mu_);
      index = std::min(owner_.requests_.size(), owner_.answers_.size() - 1);
      owner_.requests_.push_back(*request);
    }
    const Answer& answer = owner_.answers_[index];
    for (const v1::GenerateResponse& message : answer.messages) writer->Write(message);
    return answer.status;
  }

 private:
  ScriptedServer& owner_;
};

// Of sessions only what tests need.
class ScriptedServer::Sessions final : public v1::SessionService::Service {
 public:
  explicit Sessions(ScriptedServer& owner) : owner_(owner) {}

  grpc::Status CreateSession(grpc::ServerContext*, const v1::CreateSessionRequest*,
                             v1::CreateSessionResponse* response) override {
    response->mutable_session()->set_id("made");
    return grpc::Status::OK;
  }

  grpc::Status ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override {
    if (request->page_token().empty()) {
      response->add_sessions()->set_id("a");
      response->add_sessions()->set_id("b");
      response->set_next_page_token("b");
    } else if (request->page_token() == "b") {
      response->add_sessions()->set_id("c");
    }
    return grpc::Status::OK;
  }

  grpc::Status ForkSession(grpc::ServerContext*, const v1::ForkSessionRequest*,
                           v1::ForkSessionResponse* response) override {
    const MutexLock lock(owner_.mu_);
    if (!owner_.fork_status_.ok()) return owner_.fork_status_;
    response->mutable_session()->set_id(absl::StrCat("copy", ++owner_.num_forks_));
    return grpc::Status::OK;
  }

  grpc::Status DeleteSession(grpc::ServerContext*,
                             const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse*) override {
    const MutexLock lock(owner_.mu_);
    owner_.deleted_.push_back(request->session_id());
    return grpc::Status::OK;
  }

 private:
  ScriptedServer& owner_;
};

ScriptedServer::ScriptedServer(std::vector<Answer> answers)
    : answers_(std::move(answers)),
      generation_(std::make_unique<Generation>(*this)),
      sessions_(std::make_unique<Sessions>(*this)) {
  GOLDFINCH_CHECK(!answers_.empty());
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(generation_.get());
  builder.RegisterService(sessions_.get());
  server_ = builder.BuildAndStart();
  GOLDFINCH_CHECK(server_ != nullptr);
}

ScriptedServer::~ScriptedServer() { server_->Shutdown(); }

void ScriptedServer::RefuseForks(const grpc::Status& status) {
  const MutexLock lock(mu_);
  fork_status_ = status;
}

std::string ScriptedServer::address() const { return absl::StrCat("127.0.0.1:", port_); }

std::vector<v1::GenerateRequest> ScriptedServer::requests() const {
  const MutexLock lock(mu_);
  return requests_;
}

std::vector<std::string> ScriptedServer::deleted() const {
  const MutexLock lock(mu_);
  return deleted_;
}

v1::GenerateResponse Piece(std::int32_t token, const std::string& text) {
  v1::GenerateResponse message;
  message.add_tokens(token);
  message.set_text(text);
  return message;
}

v1::GenerateResponse LastPiece(std::int32_t token, const std::string& text) {
  v1::GenerateResponse message = Piece(token, text);
  message.set_finish_reason(v1::FINISH_REASON_LENGTH);
  message.mutable_usage()->set_generated_tokens(token);
  return message;
}

}  // namespace goldfinch
