// Callers without a good key: UNAUTHENTICATED on every method that reflection lists, but
// those of health and of reflection itself.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/empty.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/hostile/attacked_server.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::Contains;

// The library has no generated code for its own messages: fields by their numbers.
std::string Field(int number, const std::string& value) {
  google::protobuf::Empty message;
  auto* fields = message.GetReflection()->MutableUnknownFields(&message);
  fields->AddLengthDelimited(number, value);
  return message.SerializeAsString();
}

std::vector<std::string> FieldsIn(const std::string& bytes, int number) {
  google::protobuf::Empty message;
  EXPECT_TRUE(message.ParseFromString(bytes));
  const auto& fields = message.GetReflection()->GetUnknownFields(message);
  std::vector<std::string> found;
  for (int i = 0; i < fields.field_count(); ++i) {
    const auto& field = fields.field(i);
    if (field.number() != number) continue;
    if (field.type() != google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED) continue;
    found.push_back(field.length_delimited());
  }
  return found;
}

// What reflection answers to one request.
std::string Reflect(const std::shared_ptr<grpc::Channel>& channel,
                    const std::string& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok) && ok);
  };
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  wait();
  const grpc::Slice slice(request);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  wait();
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  wait();
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(answer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& part : slices) bytes.append(part.begin(), part.end());
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  return bytes;
}

// "/package.Service/Method" of all services that reflection lists. gRPC's own need no key
// and are not all described.
std::vector<std::string> ListedMethods(const std::shared_ptr<grpc::Channel>& channel) {
  constexpr int kListServices = 7, kFileContainingSymbol = 4;  // of requests
  constexpr int kServices = 6, kFiles = 4;                     // of answers
  std::vector<std::string> methods;
  const std::string list = Reflect(channel, Field(kListServices, "*"));
  for (const std::string& service : FieldsIn(FieldsIn(list, kServices).at(0), 1)) {
    const std::string name = FieldsIn(service, 1).at(0);
    if (name.starts_with("grpc.health.") || name.starts_with("grpc.reflection."))
      continue;
    const std::string files = Reflect(channel, Field(kFileContainingSymbol, name));
    for (const std::string& bytes : FieldsIn(FieldsIn(files, kFiles).at(0), 1)) {
      google::protobuf::FileDescriptorProto file;
      EXPECT_TRUE(file.ParseFromString(bytes));
      for (const auto& described : file.service()) {
        if (absl::StrCat(file.package(), ".", described.name()) != name) continue;
        for (const auto& method : described.method()) {
          methods.push_back(absl::StrCat("/", name, "/", method.name()));
        }
      }
    }
  }
  return methods;
}

class RefusedCallersTest : public AttackedServerTest {
 protected:
  void SetUp() override {
    TestServerOptions options = RoomyOptions();
    options.tenants = tenants_.get();
    key_ = kKey;
    Start(options);
  }

  static constexpr char kKey[] = "key-of-good";
  const TenantFile file_{TenantEntry("good-tenant", kKey)};
  const std::unique_ptr<TenantDirectory> tenants_ =
      TenantDirectory::Load(file_.path()).value();
};

TEST_F(RefusedCallersTest, AreUnauthenticatedOnEveryMethodThatIsListed) {
  Witness witness(server().NewChannel(), kKey);
  const auto channel = server().NewChannel();
  const std::vector<std::string> methods = ListedMethods(channel);
  for (const std::string& method : AllMethods()) EXPECT_THAT(methods, Contains(method));

  const std::string header = "authorization";
  const std::vector<Headers> refused = {
      {},
      WithKey("wrong"),
      WithKey(""),
      {{header, kKey}},
      {{header, "Bearer"}},
      {{header, std::string("Basic ") + kKey}},
      {{header, std::string("bearer:") + kKey}},
      {{header, std::string("Bearer  ") + kKey}},
      WithKey(std::string(kKey) + " "),
      WithKey(std::string(kKey) + " " + kKey),
      WithKey(std::string(kKey) + "," + kKey),
      WithKey(HashOfKey(kKey)),
      WithKey(std::string(513, 'k')),
      {{"x-authorization", std::string("Bearer ") + kKey}},
      {{"authorization-bin", std::string("Bearer ") + kKey}},
      // Two, good as they may be.
      {{header, std::string("Bearer ") + kKey}, {header, std::string("Bearer ") + kKey}},
      {{header, std::string("Bearer ") + kKey}, {header, "Bearer wrong"}},
  };
  int asked = 0;
  for (const std::string& method : methods) {
    SCOPED_TRACE(method);
    for (const Headers& headers : refused) {
      SCOPED_TRACE(headers.empty() ? "no header"
                                   : headers[0].first + ": " + headers[0].second);
      const grpc::Status status = Checked(CallAny(channel, method, headers));
      EXPECT_EQ(status.error_code(), StatusCode::UNAUTHENTICATED);
      EXPECT_EQ(status.error_message(),
                "a valid key is needed (authorization: Bearer KEY)");
      EXPECT_EQ(status.error_details(), "");
      ++asked;
    }
    EXPECT_NE(CallAny(channel, method, WithKey(kKey)).error_code(),
              StatusCode::UNAUTHENTICATED);
  }
  EXPECT_GE(asked, 13 * static_cast<int>(refused.size()));
  EXPECT_TRUE(CallAny(channel, "/grpc.health.v1.Health/Check").ok());
  witness.Finish();
}

// A key is asked for before a message is looked at.
TEST_F(RefusedCallersTest, AreNotToldWhatElseWasWrong) {
  v1::GenerateRequest request = TextRequest("x", -1);
  EXPECT_EQ(
      Checked(CallAny(server().NewChannel(), "/goldfinch.v1.GenerationService/Generate",
                      {}, request.SerializeAsString()))
          .error_code(),
      StatusCode::UNAUTHENTICATED);
}

}  // namespace
}  // namespace goldfinch
