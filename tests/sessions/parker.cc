// Puts snapshots of growing generation into the directory argv[1], from argv[2] on, and
// writes each acknowledged generation, 8 bytes of this machine's order, to stdout.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "sessions/directory_store.h"
#include "sessions/snapshot.h"
#include "tests/sessions/samples.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto store = goldfinch::DirectoryStore::Open(argv[1]);
  if (!store.ok()) return 3;
  goldfinch::Snapshot snapshot = goldfinch::SampleSnapshot();
  snapshot.state.resize(100'000);  // several pages, so that a kill can fall inside
  for (std::uint64_t generation = std::strtoull(argv[2], nullptr, 10);; ++generation) {
    snapshot.generation = generation;
    const std::string bytes = goldfinch::EncodeSnapshot(snapshot, nullptr);
    if (!(*store)->Put(snapshot.session_id, generation, bytes).ok()) return 4;
    if (write(STDOUT_FILENO, &generation, sizeof generation) != sizeof generation)
      return 5;
  }
}
