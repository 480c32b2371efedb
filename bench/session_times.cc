#include "bench/session_times.h"

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/folder.h"
#include "bench/median.h"
#include "engine/check.h"
#include "engine/file_descriptor.h"
#include "sessions/directory_store.h"
#include "sessions/files.h"
#include "sessions/snapshot.h"

namespace goldfinch {
namespace {

constexpr int kPasses = 9;

double Time(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The session as its owner would park it.
class Parker {
 public:
  Parker(ModelEngine& engine, SequenceId sequence, std::int64_t tokens)
      : engine_(engine), sequence_(sequence), tokens_(tokens) {
    const EngineInfo& info = engine.info();
    snapshot_.model_fingerprint = info.model_fingerprint;
    snapshot_.numerics_id = info.numerics_id;
    snapshot_.tenant = "default";
    snapshot_.session_id = NewSessionId();
    snapshot_.key_bytes_per_token = info.key_bytes;
    // Between calls a session is a kept prefix and its history.
    prefix_ = engine.Keep(sequence);
    PrefixImage image;
    GOLDFINCH_CHECK(engine.Save(prefix_, image).ok());
    snapshot_.tokens = image.tokens;
  }
  ~Parker() { engine_.Drop(prefix_); }

  const std::string& id() const { return snapshot_.session_id; }

  // At the end of a turn.
  void Keep() { engine_.Drop(engine_.Keep(sequence_)); }

  SnapshotBytes Park() {
    ++snapshot_.generation;
    auto image = std::make_shared<PrefixImage>();
    GOLDFINCH_CHECK(engine_.Save(prefix_, *image).ok());
    snapshot_.image = std::move(image);
    return EncodeSnapshot(snapshot_, /*key=*/nullptr);
  }

  void Restore(std::shared_ptr<const std::string> bytes) {
    const auto snapshot = DecodeSnapshot(std::move(bytes), /*key=*/nullptr, {});
    GOLDFINCH_CHECK(snapshot.ok());
    GOLDFINCH_CHECK(engine_.CheckImage(*snapshot->image).ok());
    const auto prefix = engine_.Load(*snapshot->image);
    GOLDFINCH_CHECK(prefix.ok());
    restored_ = *prefix;
  }
  void Open() {
    const auto sequence = engine_.OpenFrom(
        restored_, {.max_tokens = tokens_, .first_logits = tokens_ - 1}, {});
    GOLDFINCH_CHECK(sequence.ok());
    opened_ = *sequence;
  }
  void Close() {
    engine_.Close(opened_);
    engine_.Drop(restored_);
  }

  std::uint64_t generation() const { return snapshot_.generation; }

 private:
  ModelEngine& engine_;
  const SequenceId sequence_;
  const std::int64_t tokens_;
  PrefixId prefix_;
  Snapshot snapshot_;
  PrefixId restored_ = PrefixId::kNone;
  SequenceId opened_ = SequenceId::kNone;
};

}  // namespace

absl::StatusOr<SessionTimes> MeasureSession(ModelEngine& engine, SequenceId sequence,
                                            std::int64_t tokens) {
  const Folder folder, plain;
  DirectoryStoreOptions options;
  options.path = folder.path();
  auto store = DirectoryStore::Open(std::move(options));
  if (!store.ok()) return store.status();
  Parker parker(engine, sequence, tokens);
  const auto claim = (*store)->Acquire(parker.id(), "default", AcquireMode::kNew);
  if (!claim.ok()) return claim.status();

  const auto bytes = std::make_shared<const std::string>(parker.Park().Join());
  const std::string_view piece = *bytes;
  std::vector<double> copies, keeps, parks, restores, opens, writes, reads, puts, gets;
  for (int i = 0; i < kPasses; ++i) {
    std::string copy;
    copies.push_back(Time([&] { copy = *bytes; }));
    copy = std::string();
    keeps.push_back(Time([&] { parker.Keep(); }));
    SnapshotBytes parked;
    parks.push_back(Time([&] { parked = parker.Park(); }));
    GOLDFINCH_CHECK(parked.size() == bytes->size());
    restores.push_back(Time([&] { parker.Restore(bytes); }));
    opens.push_back(Time([&] { parker.Open(); }));
    parker.Close();

    const FileCalls calls;
    writes.push_back(Time([&] {
      GOLDFINCH_CHECK(
          WriteFile(calls, plain.fd(), "new", {&piece, 1}, Durability::kFlushed).ok());
      GOLDFINCH_CHECK(RenameOrRemove(calls, plain.fd(), "new", "file").ok());
      GOLDFINCH_CHECK(fsync(plain.fd()) == 0);
    }));
    puts.push_back(Time([&] {
      GOLDFINCH_CHECK((*store)
                          ->Put(parker.id(), *claim, parker.generation(),
                                {.tenant = "default", .num_tokens = tokens},
                                parked.pieces(), kUnlimitedBytes)
                          .ok());
    }));
    reads.push_back(Time([&] {
      const FileDescriptor file(openat(plain.fd(), "file", O_RDONLY | O_CLOEXEC));
      GOLDFINCH_CHECK(ReadUpTo(file.get(), bytes->size()).ok());
    }));
    gets.push_back(Time(
        [&] { GOLDFINCH_CHECK((*store)->Get(parker.id(), kUnlimitedBytes).ok()); }));
  }
  return SessionTimes{.bytes = static_cast<double>(bytes->size()),
                      .copy = Median(copies),
                      .keep = Median(keeps),
                      .park = Median(parks),
                      .restore = Median(restores),
                      .open = Median(opens),
                      .file_write = Median(writes),
                      .file_read = Median(reads),
                      .put = Median(puts),
                      .get = Median(gets)};
}

}  // namespace goldfinch
