// A replica as a process of its own, in one of two parts.
//
//   sessions_parker park DIRECTORY AHEAD
//     With a clock that is AHEAD seconds ahead, claims the sample session and puts
//     snapshots of growing generation, for ever. Writes each acknowledged one, 8 bytes of
//     this machine's order, to stdout.
//   sessions_parker race STORE ROUNDS SEED
//     Again and again claims one of four sessions, reads it, puts the next generation
//     and gives it up. Writes the generations it put, as acknowledged, one 8 byte number
//     for each session in the end.
//
// STORE is a directory or a URL of Redis.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "sessions/directory_store.h"
#include "sessions/open_store.h"
#include "sessions/snapshot.h"
#include "tests/sessions/ahead_clock.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

constexpr int kSessions = 4;

bool Tell(std::uint64_t number) {
  return write(STDOUT_FILENO, &number, sizeof number) == sizeof number;
}

int Park(const std::string& path, std::chrono::seconds ahead) {
  DirectoryStoreOptions options;
  options.path = path;
  options.clock = std::make_shared<AheadClock>(ahead);
  auto store = DirectoryStore::Open(std::move(options));
  if (!store.ok()) return 3;
  Snapshot snapshot = SampleSnapshot();
  const auto claim = (*store)->Acquire(kSampleId, snapshot.tenant, AcquireMode::kNew);
  if (!claim.ok()) return 4;
  // Several pages, so that a kill can fall inside; of the generation, so that it is seen
  // when two are mixed.
  std::vector<std::byte> state(100'000);
  auto image = std::make_shared<PrefixImage>(*snapshot.image);
  snapshot.image = image;
  const SnapshotInfo info{.tenant = snapshot.tenant, .num_tokens = 3};
  for (std::uint64_t generation = claim->generation + 1;; ++generation) {
    snapshot.generation = generation;
    std::ranges::fill(state, static_cast<std::byte>(generation));
    // Of sizes of their own, so that a wrong sum of them is seen.
    image->state = std::span(state).first(state.size() - generation % 1000);
    const SnapshotBytes bytes = EncodeSnapshot(snapshot, nullptr);
    const absl::Status put = (*store)->Put(kSampleId, *claim, generation, info,
                                           bytes.pieces(), kUnlimitedBytes);
    if (!put.ok()) return 5;
    if (!Tell(generation)) return 6;
  }
}

int Race(SnapshotStore& store, int rounds, unsigned seed) {
  std::mt19937 random(seed);
  const SnapshotInfo info{.tenant = "t", .num_tokens = 3};
  std::array<std::uint64_t, kSessions> puts{};
  for (int i = 0; i < rounds; ++i) {
    const std::size_t s = random() % kSessions;
    const std::string id(32, static_cast<char>('a' + s));
    const auto claim = store.Acquire(id, info.tenant, AcquireMode::kNew);
    if (!claim.ok()) continue;  // another has it
    const std::string bytes = std::to_string(claim->generation + 1);
    const std::string_view piece = bytes;
    const absl::Status put =
        store.Put(id, *claim, claim->generation + 1, info, {&piece, 1}, kUnlimitedBytes);
    if (put.ok()) ++puts[s];
    if (!store.Release(id, *claim).ok()) return 4;
  }
  for (const std::uint64_t count : puts) {
    if (!Tell(count)) return 6;
  }
  return 0;
}

int Main(int argc, char** argv) {
  if (argc < 4) return 2;
  const std::string part = argv[1];
  if (part == "park") return Park(argv[2], std::chrono::seconds(std::atoi(argv[3])));
  if (part != "race" || argc != 5) return 2;
  auto store = OpenStore(argv[2], {});
  if (!store.ok()) return 3;
  return Race(**store, std::atoi(argv[3]), static_cast<unsigned>(std::atoi(argv[4])));
}

}  // namespace
}  // namespace goldfinch

int main(int argc, char** argv) { return goldfinch::Main(argc, argv); }
