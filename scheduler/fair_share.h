// What each tenant has been served: virtual token counters (Sheng et al., "Fairness in
// Serving Large Language Models", 2024).
//
// A prompt token counts 1 when it passes through the model (so what a prefix cache saves
// is not charged), a generated one 2, divided by the tenant's weight. The least served
// tenant goes next (admission.h, plan.h).
//
// A tenant is backlogged while it has work that waits for service; only then does its
// counter compete. When it becomes so, its counter is lifted to the lowest that competes:
// nobody saves up service by being idle. It is never lowered: nobody sheds a debt either.
//
// Threads: the step thread.
#pragma once

#include <span>

namespace goldfinch {

inline constexpr double kPromptTokenService = 1;
inline constexpr double kGeneratedTokenService = 2;

struct ServiceCounter {
  double service = 0;
  bool backlogged = false;
};

class FairShare {
 public:
  struct Competitor {
    ServiceCounter* counter = nullptr;
    bool backlogged = false;  // now; the counter knows what was
  };

  // Once a step, with every tenant that has or had work.
  void Update(std::span<const Competitor> tenants);

 private:
  // The lowest counter that competed last; without competition, the highest that left.
  double floor_ = 0;
};

}  // namespace goldfinch
