#include "server/cli/transfer.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "goldfinch/v1/session_service.grpc.pb.h"
#include "server/cli/output_file.h"
#include "server/cli/progress.h"

namespace goldfinch {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;

// What has to do with the file and not with the server.
int ReportFile(const std::string& problem) {
  std::fflush(stdout);
  std::fprintf(stderr, "goldfinch: %s\n", problem.c_str());
  return 1;
}

struct CloseFile {
  void operator()(std::FILE* file) const {
    if (file != stdin) std::fclose(file);
  }
};
using InputFile = std::unique_ptr<std::FILE, CloseFile>;

// 0 when it cannot be known.
std::int64_t SizeOf(std::FILE* file) {
  struct stat found = {};
  if (fstat(fileno(file), &found) != 0 || !S_ISREG(found.st_mode)) return 0;
  return found.st_size;
}

// Until the end of the file, or of the call; false when the file cannot be read.
bool Send(std::FILE* file, grpc::ClientWriter<v1::ImportSessionRequest>& writer,
          Progress& progress) {
  std::string buffer(kChunkBytes, '\0');
  v1::ImportSessionRequest message;
  while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), file)) {
    message.set_chunk(buffer.data(), size);
    if (!writer.Write(message)) return true;
    progress.Add(static_cast<std::int64_t>(size));
  }
  return std::ferror(file) == 0;
}

// Into the file, until the end of the call or the first failed write. `missing` becomes
// the number of bytes that were announced and did not come, `received` those that came.
absl::Status Receive(grpc::ClientReader<v1::ExportSessionResponse>& reader,
                     OutputFile& file, Progress& progress, std::int64_t& missing,
                     std::int64_t& received) {
  for (v1::ExportSessionResponse message; reader.Read(&message);) {
    if (message.total_bytes() > 0) {
      missing = message.total_bytes();
      progress.set_total(missing);
    }
    const absl::Status written = file.Write(message.chunk());
    if (!written.ok()) return written;
    const auto size = static_cast<std::int64_t>(message.chunk().size());
    missing -= size;
    received += size;
    progress.Add(size);
  }
  return absl::OkStatus();
}

}  // namespace

int ExportSession(Connection& connection, Signals& signals, const CallLimits& limits,
                  const std::string& session_id, const std::string& file) {
  absl::StatusOr<std::unique_ptr<OutputFile>> output = OutputFile::Open(file);
  if (!output.ok()) return ReportFile(std::string(output.status().message()));
  v1::ExportSessionRequest request;
  request.set_session_id(session_id);
  Progress progress("exported");
  absl::Status written;
  const auto call = [&](const auto& channel, grpc::ClientContext& context) {
    const auto stub = v1::SessionService::NewStub(channel);
    const auto reader = stub->ExportSession(&context, request);
    std::int64_t missing = 0, received = 0;
    written = Receive(*reader, **output, progress, missing, received);
    if (!written.ok()) context.TryCancel();
    const grpc::Status status = reader->Finish();
    if (status.ok() && missing != 0) {
      return grpc::Status(grpc::StatusCode::DATA_LOSS,
                          absl::StrCat(missing, " bytes of the snapshot did not come"));
    }
    // Without details it is no refusal: another server would begin anew.
    if (received > 0) return grpc::Status(status.error_code(), status.error_message());
    return status;
  };
  const grpc::Status status = CallPatiently(connection, signals, limits, call);
  if (written.ok() && status.ok()) written = (*output)->Commit();
  progress.Erase();
  if (!written.ok()) return ReportFile(std::string(written.message()));
  if (status.ok()) progress.Finish();
  return signals.Report(status);
}

int ImportSession(Connection& connection, Signals& signals, const Deadline& deadline,
                  const std::string& file, v1::Session& imported) {
  const InputFile input(file == "-" ? stdin : std::fopen(file.c_str(), "rb"));
  if (input == nullptr) {
    return ReportFile(absl::StrCat("cannot read ", file, ": ", std::strerror(errno)));
  }
  grpc::ClientContext context;
  SetDeadline(deadline, context);
  const Signals::Call call(signals, context);
  const auto stub = v1::SessionService::NewStub(connection.Channel(deadline));
  v1::ImportSessionResponse response;
  const auto writer = stub->ImportSession(&context, &response);
  Progress progress("imported");
  progress.set_total(SizeOf(input.get()));
  const bool read = Send(input.get(), *writer, progress);
  const int error = errno;
  // Half a snapshot must not look like a whole one.
  if (read) {
    writer->WritesDone();
  } else {
    context.TryCancel();
  }
  const grpc::Status status = writer->Finish();
  progress.Erase();
  if (!read) {
    return ReportFile(absl::StrCat("cannot read ", file, ": ", std::strerror(error)));
  }
  if (status.ok()) progress.Finish();
  imported = std::move(*response.mutable_session());
  return signals.Report(status);
}

}  // namespace goldfinch
