#include "tests/hostile/victim.h"

#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include "tests/hostile/raw_call.h"

namespace goldfinch {
namespace {

class CancellingVictim final : public Victim {
 public:
  CancellingVictim(const TestServer& server, const VictimCall& call)
      : stub_(server.NewChannel()),
        call_(stub_.PrepareCall(&context_, call.method, &queue_)) {
    call_->StartCall(nullptr);
    EXPECT_TRUE(Next());
    const grpc::Slice slice(call.message);
    const grpc::ByteBuffer message(&slice, 1);
    if (call.more) {
      call_->Write(message, nullptr);
    } else {
      call_->WriteLast(message, grpc::WriteOptions(), nullptr);
    }
    EXPECT_TRUE(Next());
  }
  ~CancellingVictim() override { queue_.Shutdown(); }

  void ReadFirst() override {
    grpc::ByteBuffer message;
    call_->Read(&message, nullptr);
    EXPECT_TRUE(Next());
  }

  void Vanish() override {
    context_.TryCancel();
    grpc::Status status;
    call_->Finish(&status, nullptr);
    EXPECT_TRUE(Next());
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  }

 private:
  // Of the one operation under way.
  bool Next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  const std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

class BreakingVictim final : public Victim {
 public:
  BreakingVictim(Way way, const TestServer& server, const VictimCall& call)
      : way_(way), call_(server.port(), call.method, call.message, call.more) {}

  void ReadFirst() override { EXPECT_TRUE(call_.ReadFirst()); }
  void Vanish() override { way_ == Way::kResets ? call_.Reset() : call_.Close(); }

 private:
  const Way way_;
  RawCall call_;
};

}  // namespace

std::unique_ptr<Victim> StartVictim(Way way, const TestServer& server,
                                    const VictimCall& call) {
  if (way == Way::kCancels) return std::make_unique<CancellingVictim>(server, call);
  return std::make_unique<BreakingVictim>(way, server, call);
}

}  // namespace goldfinch
