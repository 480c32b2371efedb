#include "scheduler/admission.h"

#include <algorithm>
#include <numeric>

namespace goldfinch {
namespace {

bool GoesBefore(const WaitingRequest& a, const WaitingRequest& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  return a.arrival < b.arrival;
}

}  // namespace

std::vector<std::size_t> Admit(std::span<const WaitingRequest> waiting, FreeMemory free) {
  // A heap and not a sort: most often one or none of a long queue is admitted.
  std::vector<std::size_t> heap(waiting.size());
  std::iota(heap.begin(), heap.end(), std::size_t{0});
  const auto after = [&](std::size_t a, std::size_t b) {
    return GoesBefore(waiting[b], waiting[a]);
  };
  std::ranges::make_heap(heap, after);

  std::vector<std::size_t> admitted;
  while (!heap.empty()) {
    const WaitingRequest& first = waiting[heap.front()];
    if (first.slots > free.slots || first.pages > free.pages) break;
    free.slots -= first.slots;
    free.pages -= first.pages;
    admitted.push_back(heap.front());
    std::ranges::pop_heap(heap, after);
    heap.pop_back();
  }
  return admitted;
}

}  // namespace goldfinch
