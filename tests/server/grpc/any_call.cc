#include "tests/server/grpc/any_call.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor_database.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <chrono>

#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

// Of the one operation under way.
bool Next(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue.Next(&tag, &ok) && ok;
}

}  // namespace

grpc::Status CallAny(const std::shared_ptr<grpc::Channel>& channel,
                     const std::string& method, const Headers& headers,
                     const std::string& message) {
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  for (const auto& [name, value] : headers) context.AddMetadata(name, value);
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  if (Next(queue)) {
    const grpc::Slice slice(message);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    Next(queue);  // a server that refuses need not have read it
    grpc::ByteBuffer answer;
    do call->Read(&answer, nullptr);
    while (Next(queue));
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  Next(queue);
  queue.Shutdown();
  return status;
}

namespace {

// Of the services that `wanted` says.
template <typename Predicate>
std::vector<std::string> MethodsOf(const Predicate& wanted) {
  std::vector<std::string> files;
  google::protobuf::DescriptorPool::internal_generated_database()->FindAllFileNames(
      &files);
  std::vector<std::string> methods;
  for (const std::string& name : files) {
    const auto* file =
        google::protobuf::DescriptorPool::generated_pool()->FindFileByName(name);
    if (file == nullptr || file->package() != "goldfinch.v1") continue;
    for (int s = 0; s < file->service_count(); ++s) {
      const auto* service = file->service(s);
      if (!wanted(service->name())) continue;
      for (int m = 0; m < service->method_count(); ++m) {
        methods.push_back(
            absl::StrCat("/", service->full_name(), "/", service->method(m)->name()));
      }
    }
  }
  return methods;
}

constexpr char kAdmin[] = "AdminService";

}  // namespace

std::vector<std::string> AllMethods() {
  return MethodsOf([](const std::string& service) { return service != kAdmin; });
}

std::vector<std::string> AdminMethods() {
  return MethodsOf([](const std::string& service) { return service == kAdmin; });
}

}  // namespace goldfinch
