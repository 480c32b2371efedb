// How many calls of each method of the contract have come, whatever became of them: also
// those without a good key, and those that only ask.
//
// Threads: any.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace goldfinch {

class CallCounts {
 public:
  enum Method : std::size_t {
    kGenerate,
    kScore,
    kTokenize,
    kDetokenize,
    kGetModel,
    kCreateSession,
    kAppendToSession,
    kGetSession,
    kGetSessionHistory,
    kListSessions,
    kForkSession,
    kParkSession,
    kDeleteSession,
    kExportSession,
    kImportSession,
  };
  // Their names, in this order.
  static constexpr std::array<const char*, 15> kNames = {
      "Generate",          "Score",         "Tokenize",        "Detokenize",
      "GetModel",          "CreateSession", "AppendToSession", "GetSession",
      "GetSessionHistory", "ListSessions",  "ForkSession",     "ParkSession",
      "DeleteSession",     "ExportSession", "ImportSession",
  };

  static_assert(kNames.size() == kImportSession + 1);

  void Count(Method method) { counts_[method].fetch_add(1, std::memory_order_relaxed); }
  std::uint64_t Read(std::size_t method) const {
    return counts_[method].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, kNames.size()> counts_{};
};

}  // namespace goldfinch
