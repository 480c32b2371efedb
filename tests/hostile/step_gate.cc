#include "tests/hostile/step_gate.h"

#include <utility>

#include "tests/server/grpc/harness.h"

namespace goldfinch {

StepGate::StepGate(FakeEngine& engine) : engine_(engine) {
  engine_.SetForwardHook([state = state_](auto batch) { OnStep(*state, batch); });
}

StepGate::~StepGate() {
  engine_.SetForwardHook(nullptr);
  Release();
}

void StepGate::OnStep(State& state, std::span<const Span> batch) {
  MutexLock lock(state.mu);
  if (state.condition == nullptr || !state.condition(batch)) return;
  state.condition = nullptr;
  state.held = true;
  while (state.held) state.changed.Wait(state.mu);
}

void StepGate::HoldAt(Condition condition) {
  const MutexLock lock(state_->mu);
  state_->condition = std::move(condition);
}

bool StepGate::WaitUntilHeld() {
  return Eventually([this] {
    const MutexLock lock(state_->mu);
    return state_->held;
  });
}

void StepGate::Release() {
  const MutexLock lock(state_->mu);
  state_->condition = nullptr;
  state_->held = false;
  state_->changed.NotifyAll();
}

}  // namespace goldfinch
