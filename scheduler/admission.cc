#include "scheduler/admission.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace goldfinch {
namespace {

bool GoesBefore(const WaitingRequest& a, const WaitingRequest& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  return a.arrival < b.arrival;
}

}  // namespace

void Admit(std::span<const WaitingRequest> waiting,
           const std::function<bool(std::size_t)>& take) {
  // A heap and not a sort: most often one or none of a long queue is admitted.
  std::vector<std::size_t> heap(waiting.size());
  std::iota(heap.begin(), heap.end(), std::size_t{0});
  const auto after = [&](std::size_t a, std::size_t b) {
    return GoesBefore(waiting[b], waiting[a]);
  };
  std::ranges::make_heap(heap, after);
  while (!heap.empty() && take(heap.front())) {
    std::ranges::pop_heap(heap, after);
    heap.pop_back();
  }
}

}  // namespace goldfinch
