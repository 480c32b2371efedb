#include "tests/emulation/access_count.h"

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <tuple>
#include <utility>

namespace emulation {
namespace {

constexpr std::uintptr_t kBankBytes = 4, kBanks = 32, kSectorBytes = 32;

struct Lane {
  std::uintptr_t at = 0;
  std::size_t bytes = 0;
};
struct Request {
  Memory memory = Memory::kShared;
  bool writes = false;
  std::vector<Lane> lanes;
};
// Of one warp at one place, with how many each lane has taken part in.
struct Requests {
  std::array<std::size_t, 32> seen{};
  std::vector<Request> all;
};

bool counting = false;
std::map<std::pair<unsigned, const void*>, Requests> open;
std::map<std::tuple<std::string, const void*, Memory>, Accesses> counted;

// Numbers of the pieces of `size` bytes that hold what these lanes use, each once.
std::vector<std::uintptr_t> Pieces(std::span<const Lane> lanes, std::uintptr_t size) {
  std::vector<std::uintptr_t> pieces;
  for (const Lane& lane : lanes)
    for (std::uintptr_t i = lane.at / size; i <= (lane.at + lane.bytes - 1) / size; ++i)
      pieces.push_back(i);
  std::sort(pieces.begin(), pieces.end());
  pieces.erase(std::unique(pieces.begin(), pieces.end()), pieces.end());
  return pieces;
}

// Bytes that they use, each once.
std::size_t BytesOf(std::vector<Lane> lanes) {
  std::sort(lanes.begin(), lanes.end(),
            [](const Lane& a, const Lane& b) { return a.at < b.at; });
  std::size_t bytes = 0;
  std::uintptr_t end = 0;
  for (const Lane& lane : lanes) {
    const std::uintptr_t begin = std::max(lane.at, end), lane_end = lane.at + lane.bytes;
    if (lane_end > begin) bytes += lane_end - begin;
    end = std::max(end, lane_end);
  }
  return bytes;
}

std::int64_t Ceil(std::size_t count, std::uintptr_t size) {
  return static_cast<std::int64_t>((count + size - 1) / size);
}

// Lanes with eight bytes each are served sixteen at a time, with sixteen bytes eight; of
// each such group every bank gives one word at a time, to all who want it.
void CountShared(const Request& request, Accesses& sum) {
  const std::size_t words =
      std::max(request.lanes.front().bytes / kBankBytes, std::size_t{1});
  const std::size_t group = kBanks / words;
  const std::span lanes(request.lanes);
  for (std::size_t first = 0; first < lanes.size(); first += group) {
    const std::vector<std::uintptr_t> used =
        Pieces(lanes.subspan(first, std::min(group, lanes.size() - first)), kBankBytes);
    std::array<std::int64_t, kBanks> asked{};
    for (const std::uintptr_t word : used) ++asked[word % kBanks];
    sum.moved += *std::max_element(asked.begin(), asked.end());
    sum.needed += Ceil(used.size(), kBanks);
  }
}

void CountDevice(const Request& request, Accesses& sum) {
  sum.moved += static_cast<std::int64_t>(Pieces(request.lanes, kSectorBytes).size());
  sum.needed += Ceil(BytesOf(request.lanes), kSectorBytes);
}

}  // namespace

void StartCounting() {
  open.clear();
  counted.clear();
  counting = true;
}
bool Counting() { return counting; }

std::vector<Accesses> StopCounting() {
  counting = false;
  std::vector<Accesses> all;
  for (auto& [key, accesses] : counted) all.push_back(std::move(accesses));
  return all;
}

void CountAccess(const void* p, std::size_t bytes, Memory memory, bool writes,
                 unsigned warp, unsigned lane, const void* place) {
  Requests& requests = open[{warp, place}];
  const std::size_t number = requests.seen[lane]++;
  if (number == requests.all.size()) requests.all.push_back({memory, writes, {}});
  requests.all[number].lanes.push_back({reinterpret_cast<std::uintptr_t>(p), bytes});
}

void EndRequests(const char* kernel) {
  for (const auto& [of, requests] : open)
    for (const Request& request : requests.all) {
      Accesses& sum = counted[{kernel, of.second, request.memory}];
      sum.kernel = kernel;
      sum.place = of.second;
      sum.memory = request.memory;
      sum.writes = request.writes;
      ++sum.requests;
      if (request.memory == Memory::kShared)
        CountShared(request, sum);
      else
        CountDevice(request, sum);
    }
  open.clear();
}

}  // namespace emulation
