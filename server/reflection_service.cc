#include "server/reflection_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <set>
#include <utility>

namespace goldfinch {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1alpha::FileDescriptorResponse;
using grpc::reflection::v1alpha::ServerReflectionRequest;
using grpc::reflection::v1alpha::ServerReflectionResponse;

void Fail(grpc::StatusCode code, const char* message, ServerReflectionResponse& out) {
  out.mutable_error_response()->set_error_code(code);
  out.mutable_error_response()->set_error_message(message);
}

// `file` and what it imports, each once.
void AddFile(const FileDescriptor* file, std::set<const FileDescriptor*>& added,
             FileDescriptorResponse& out) {
  if (!added.insert(file).second) return;
  google::protobuf::FileDescriptorProto message;
  file->CopyTo(&message);
  message.SerializeToString(out.add_file_descriptor_proto());
  for (int i = 0; i < file->dependency_count(); ++i) {
    AddFile(file->dependency(i), added, out);
  }
}

void TellFile(const FileDescriptor* file, ServerReflectionResponse& out) {
  if (file == nullptr) return Fail(grpc::StatusCode::NOT_FOUND, "not found", out);
  std::set<const FileDescriptor*> added;
  AddFile(file, added, *out.mutable_file_descriptor_response());
}

void TellExtensions(const std::string& type, const DescriptorPool& pool,
                    ServerReflectionResponse& out) {
  const auto* message = pool.FindMessageTypeByName(type);
  if (message == nullptr) return Fail(grpc::StatusCode::NOT_FOUND, "not found", out);
  auto& numbers = *out.mutable_all_extension_numbers_response();
  numbers.set_base_type_name(type);
  std::vector<const google::protobuf::FieldDescriptor*> extensions;
  pool.FindAllExtensions(message, &extensions);
  for (const auto* extension : extensions) {
    numbers.add_extension_number(extension->number());
  }
}

void Answer(const ServerReflectionRequest& request,
            const std::vector<std::string>& services, ServerReflectionResponse& out) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  out.Clear();
  out.set_valid_host(request.host());
  *out.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kFileByFilename:
      return TellFile(pool.FindFileByName(request.file_by_filename()), out);
    case ServerReflectionRequest::kFileContainingSymbol:
      return TellFile(pool.FindFileContainingSymbol(request.file_containing_symbol()),
                      out);
    case ServerReflectionRequest::kFileContainingExtension: {
      const auto& asked = request.file_containing_extension();
      const auto* type = pool.FindMessageTypeByName(asked.containing_type());
      const auto* extension =
          type == nullptr ? nullptr
                          : pool.FindExtensionByNumber(type, asked.extension_number());
      return TellFile(extension == nullptr ? nullptr : extension->file(), out);
    }
    case ServerReflectionRequest::kAllExtensionNumbersOfType:
      return TellExtensions(request.all_extension_numbers_of_type(), pool, out);
    case ServerReflectionRequest::kListServices:
      for (const std::string& name : services) {
        out.mutable_list_services_response()->add_service()->set_name(name);
      }
      return;
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      return Fail(grpc::StatusCode::INVALID_ARGUMENT, "nothing is asked for", out);
  }
}

}  // namespace

// Reads and writes by turns; one operation at a time. Owns itself until OnDone.
class ReflectionService::Call final
    : public grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse> {
 public:
  explicit Call(ReflectionService& service) : service_(service) {
    if (service_.num_calls_.fetch_add(1) < kMaxCalls) {
      StartRead(&request_);
    } else {
      Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many calls of reflection"});
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);  // the client has asked for all
    Answer(request_, service_.services_, response_);
    StartWrite(&response_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish({grpc::StatusCode::CANCELLED, "the client is gone"});
    StartRead(&request_);
  }

  void OnDone() override {
    --service_.num_calls_;
    delete this;
  }

 private:
  ReflectionService& service_;
  ServerReflectionRequest request_;
  ServerReflectionResponse response_;
};

ReflectionService::ReflectionService(std::vector<std::string> services)
    : services_(std::move(services)) {
  services_.emplace_back("grpc.reflection.v1alpha.ServerReflection");
  services_.emplace_back("grpc.health.v1.Health");
}

grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext*) {
  return new Call(*this);
}

}  // namespace goldfinch
