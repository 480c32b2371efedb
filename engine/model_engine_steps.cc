#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/model_engine_impl.h"

namespace goldfinch {

void ModelEngineImpl::Feed(Sequence& sequence, std::span<const TokenId> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (sequence.counts.has_value() && sequence.length <= sequence.spec.first_logits) {
    const std::int64_t prompt =
        std::min(count, sequence.spec.first_logits + 1 - sequence.length);
    sequence.counts->AddPrompt(tokens.first(static_cast<std::size_t>(prompt)));
  }
  sequence.length += count;
}

SpanInput ModelEngineImpl::InputOf(const Span& span) {
  Sequence& sequence = table_.Get(span.sequence);
  const std::int64_t position = sequence.length;
  const std::int64_t end = position + static_cast<std::int64_t>(span.tokens.size());
  GOLDFINCH_CHECK(sequence.parent == SequenceId::kNone && end > position &&
                  end <= sequence.spec.max_tokens);
  const std::span<const std::int64_t> keep_at = sequence.spec.keep_at;
  const auto next = std::upper_bound(keep_at.begin(), keep_at.end(), position);
  GOLDFINCH_CHECK(next == keep_at.end() || end <= *next);
  const std::int64_t first_logits = sequence.spec.first_logits;
  const std::int64_t begin = GoldBegin(sequence);
  GOLDFINCH_CHECK(info_.SpanEnd(position, end, first_logits) == end);
  sequence.gold.Advance(position, end, begin);
  Feed(sequence, span.tokens);
  return {.slot = sequence.slot,
          .next_slot = sequence.slot,
          .position = position,
          .tokens = span.tokens,
          .pages = sequence.pages,
          .gold_begin = begin,
          .prompt = info_.IsPrompt(position, first_logits)};
}

std::size_t ModelEngineImpl::ReserveExpanded(std::span<const SequenceId> sequences) {
  GOLDFINCH_CHECK(num_flights_ == 0);
  if (config().num_gold() == 0 || sequences.empty()) return sequences.size();
  model_.StartReserving();
  std::size_t count = 0;
  for (const SequenceId id : sequences) {
    const Sequence& sequence = table_.Get(id);
    const auto pages = static_cast<std::size_t>(info_.PagesFor(sequence.length + 1));
    if (!model_.ReserveExpanded(std::span(sequence.pages).first(pages))) break;
    ++count;
  }
  return std::max<std::size_t>(count, 1);
}

Preparation ModelEngineImpl::Prepare(SequenceId id, std::int64_t tokens,
                                     std::int64_t max_tokens) {
  const Sequence& sequence = table_.Get(id);
  const std::int64_t begin = GoldBegin(sequence);
  GOLDFINCH_CHECK(num_flights_ == 0);
  if (config().num_gold() == 0 || begin >= sequence.length + tokens) return {};
  backend_->BeginStep();
  const Preparation done = model_.Prepare(sequence.pages, sequence.length, max_tokens);
  backend_->Synchronize();
  backend_->EndStep();
  return done;
}

void ModelEngineImpl::Queue(std::span<const Span> batch, std::span<SpanResult> results) {
  GOLDFINCH_CHECK(num_flights_ == 0 && batch.size() == results.size());
  Flight& flight = flights_[first_flight_];
  num_flights_ = 1;
  spans_.clear();
  for (const Span& span : batch) spans_.push_back(InputOf(span));
  for (SpanResult& result : results) result.scores.clear();  // of an earlier step
  backend_->BeginStep();
  model_.Run(spans_);
  SampleSpans(batch, results, flight);
  ScoreSpans(batch, results);
  for (std::size_t i = 0; i < batch.size(); ++i)
    if (batch[i].output == SpanOutput::kLogits) CopyLogits(batch[i], i);
  backend_->EndStep();
}

void ModelEngineImpl::SampleSpans(std::span<const Span> batch,
                                  std::span<SpanResult> results, Flight& flight) {
  const auto samples = std::count_if(batch.begin(), batch.end(), [](const Span& span) {
    return span.output == SpanOutput::kSample;
  });
  flight.started = samples <= max_logit_rows_;
  rows_.clear();
  sample_requests_.clear();
  const auto flush = [&] {
    if (rows_.empty()) return;
    const Matrix logits = model_.Logits(rows_);
    if (flight.started)
      backend_->StartSample(logits, sample_requests_, first_flight_);
    else
      backend_->Sample(logits, sample_requests_);
    rows_.clear();
    sample_requests_.clear();
  };
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output != SpanOutput::kSample) continue;
    AddSample(batch[i].sequence, /*pending=*/{}, results[i].sample, flight);
    rows_.push_back(
        model_.OutputRow(i, static_cast<std::int64_t>(batch[i].tokens.size()) - 1));
    if (static_cast<std::int64_t>(rows_.size()) == max_logit_rows_) flush();
  }
  flush();
}

void ModelEngineImpl::AddSample(SequenceId id, std::optional<std::int64_t> pending,
                                SampledToken& out, Flight& flight) {
  const Sequence& sequence = table_.Get(id);
  const std::int64_t not_seen = pending.has_value() ? 1 : 0;
  GOLDFINCH_CHECK(sequence.length + not_seen > sequence.spec.first_logits);
  sample_requests_.push_back(
      {.row = static_cast<std::int64_t>(sample_requests_.size()),
       .params = &sequence.spec.sampling,
       .counts = sequence.counts.has_value() ? &*sequence.counts : nullptr,
       .pending = pending,
       .num_generated = sequence.num_generated + not_seen,
       .out = &out});
  flight.sampled.push_back({id, &out});
}

bool ModelEngineImpl::QueueNext(std::span<const SequenceId> sequences,
                                std::span<SpanResult> results) {
  GOLDFINCH_CHECK(num_flights_ == 1 && sequences.size() == results.size());
  Flight& last = first_flight();
  if (sequences.empty() || !info_.runs_ahead || !last.started) return false;
  Settle(last);
  if (static_cast<std::int64_t>(sequences.size()) > table_.spare_slots()) return false;

  const int set = 1 - first_flight_;
  Flight& flight = flights_[set];
  flight.started = flight.ahead = true;
  num_flights_ = 2;
  static constexpr TokenId kNotSeen = 0;
  spans_.clear();
  rows_.clear();
  sample_requests_.clear();
  std::size_t sampled = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    while (sampled < last.sampled.size() &&
           last.sampled[sampled].sequence != sequences[i])
      ++sampled;
    GOLDFINCH_CHECK(sampled < last.sampled.size());
    Sequence& sequence = table_.Get(sequences[i]);
    GOLDFINCH_CHECK(sequence.length < sequence.spec.max_tokens);
    table_.TakeNextSlot(sequence);
    spans_.push_back({.slot = sequence.slot,
                      .next_slot = sequence.next_slot,
                      .position = sequence.length,
                      .tokens = std::span(&kNotSeen, 1),
                      .pages = sequence.pages,
                      .gold_begin = GoldBegin(sequence),
                      .sampled = static_cast<std::int64_t>(sampled)});
    AddSample(sequences[i], static_cast<std::int64_t>(sampled), results[i].sample,
              flight);
  }
  backend_->BeginStep();
  model_.Run(spans_, backend_->SampledTokens(first_flight_));
  for (std::size_t i = 0; i < sequences.size(); ++i)
    rows_.push_back(model_.OutputRow(i, 0));
  backend_->StartSample(model_.Logits(rows_), sample_requests_, set);
  backend_->EndStep();
  return true;
}

void ModelEngineImpl::Settle(Flight& flight) {
  if (!flight.ahead) return;
  flight.ahead = false;
  for (const auto& [id, out] : flight.sampled) {
    if (id == SequenceId::kNone) continue;
    Sequence& sequence = table_.Get(id);
    sequence.gold.Advance(sequence.length, sequence.length + 1, GoldBegin(sequence));
    ++sequence.length;
    table_.MoveToNextSlot(sequence);
  }
}

absl::Status ModelEngineImpl::Wait() {
  GOLDFINCH_CHECK(num_flights_ > 0);
  Flight& flight = first_flight();
  Settle(flight);
  if (flight.started) backend_->FinishSample(first_flight_);
  if (num_flights_ == 1) backend_->Synchronize();
  for (const auto& [id, out] : flight.sampled) {
    if (id == SequenceId::kNone) continue;
    Sequence& sequence = table_.Get(id);
    ++sequence.num_generated;
    if (sequence.counts.has_value()) sequence.counts->AddOutput(out->token);
  }
  flight.sampled.clear();
  first_flight_ = 1 - first_flight_;
  --num_flights_;
  absl::Status status = backend_->status();
  // A step behind one that failed has failed as well.
  if (!status.ok() && num_flights_ > 0) static_cast<void>(Wait());
  return status;
}

void ModelEngineImpl::ScoreSpans(std::span<const Span> batch,
                                 std::span<SpanResult> results) {
  rows_.clear();
  score_requests_.clear();
  const auto flush = [this] {
    if (!rows_.empty()) backend_->Score(model_.Logits(rows_), score_requests_);
    rows_.clear();
    score_requests_.clear();
  };
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output != SpanOutput::kScore) continue;
    const std::span<const TokenId> targets = batch[i].targets;
    GOLDFINCH_CHECK(batch[i].first_output_row +
                        static_cast<std::int64_t>(targets.size()) ==
                    static_cast<std::int64_t>(batch[i].tokens.size()));
    results[i].scores.resize(targets.size());
    for (std::size_t j = 0; j < targets.size(); ++j) {
      score_requests_.push_back({.row = static_cast<std::int64_t>(rows_.size()),
                                 .target = targets[j],
                                 .out = &results[i].scores[j]});
      rows_.push_back(
          model_.OutputRow(i, batch[i].first_output_row + static_cast<std::int64_t>(j)));
      if (static_cast<std::int64_t>(rows_.size()) == max_logit_rows_) flush();
    }
  }
  flush();
}

Matrix ModelEngineImpl::SpanLogits(std::size_t index, std::int64_t first,
                                   std::int64_t count) {
  rows_.clear();
  for (std::int64_t i = 0; i < count; ++i)
    rows_.push_back(model_.OutputRow(index, first + i));
  return model_.Logits(rows_);
}

void ModelEngineImpl::CopyLogits(const Span& span, std::size_t index) {
  const auto count =
      static_cast<std::int64_t>(span.tokens.size()) - span.first_output_row;
  const std::int64_t vocab = info_.vocab_size;
  GOLDFINCH_CHECK(static_cast<std::int64_t>(span.logits.size()) == count * vocab);
  for (std::int64_t first = 0; first < count; first += max_logit_rows_) {
    const std::int64_t rows = std::min(max_logit_rows_, count - first);
    const Matrix logits = SpanLogits(index, span.first_output_row + first, rows);
    backend_->CopyToHost(span.logits.data() + first * vocab, logits.data,
                         rows * vocab * static_cast<std::int64_t>(sizeof(float)));
  }
}

}  // namespace goldfinch
