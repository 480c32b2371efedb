// Stops the step thread of a fake engine inside a step that a test waits for, so that a
// fault can be made to meet a request in a state of the test's choice.
//
// Threads: made, used and destroyed by the test's; the engine outlives it.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "engine/engine.h"
#include "engine/sync/mutex.h"
#include "tests/fakes/fake_engine.h"

namespace goldfinch {

class StepGate {
 public:
  explicit StepGate(FakeEngine& engine);
  ~StepGate();  // lets go
  StepGate(const StepGate&) = delete;
  StepGate& operator=(const StepGate&) = delete;

  // The next step for which `condition` is true, by its batch, stops at its beginning.
  // Called once a step, so it may count.
  using Condition = std::function<bool(std::span<const Span>)>;
  void HoldAt(Condition condition);
  void HoldAtOnce() {
    HoldAt([](std::span<const Span>) { return true; });
  }
  // False when it has not stopped within many seconds.
  bool WaitUntilHeld();
  void Release();

 private:
  struct State {
    Mutex mu;
    CondVar changed;
    Condition condition ABSL_GUARDED_BY(mu);
    bool held ABSL_GUARDED_BY(mu) = false;
  };
  static void OnStep(State& state, std::span<const Span> batch);

  FakeEngine& engine_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();  // a step may be in it
};

}  // namespace goldfinch
