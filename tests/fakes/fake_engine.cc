#include "tests/fakes/fake_engine.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <utility>

#include "engine/check.h"

namespace goldfinch {
namespace {

std::uint64_t Mix(std::uint64_t a, std::uint64_t b) {
  // Finaliser of splitmix64 over a combination that is not symmetric.
  std::uint64_t x = a * 0x9e3779b97f4a7c15u + b + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

std::uint64_t Extend(std::uint64_t hash, TokenId token) {
  return Mix(hash, static_cast<std::uint64_t>(token));
}

// A token that is computed with the others of its block.
std::uint64_t ExtendInBlock(std::uint64_t hash, TokenId token) {
  return Mix(hash, static_cast<std::uint64_t>(token) | std::uint64_t{1} << 40);
}

// Of a prompt, all of it fed, whose last token is not computed in a block.
std::uint64_t HashOfPrompt(std::span<const TokenId> prompt, std::int64_t grid) {
  const std::int64_t blocks = grid == 1 ? 0 : (std::ssize(prompt) - 1) / grid * grid;
  std::uint64_t hash = 0;
  for (std::int64_t i = 0; i < std::ssize(prompt); ++i) {
    const TokenId token = prompt[static_cast<std::size_t>(i)];
    hash = i < blocks ? ExtendInBlock(hash, token) : Extend(hash, token);
  }
  return hash;
}

SampledToken SampleOf(std::uint64_t hash, const SamplingParams& sampling,
                      std::int64_t generated, std::int32_t vocab_size) {
  std::uint64_t h = Mix(Mix(hash, sampling.seed), sampling.candidate);
  const auto token = [&] {
    return static_cast<TokenId>(h % static_cast<std::uint64_t>(vocab_size));
  };
  while (generated < sampling.min_tokens &&
         std::ranges::find(sampling.banned_before_min_tokens, token()) !=
             sampling.banned_before_min_tokens.end()) {
    h = Mix(h, 0);
  }
  SampledToken sample;
  sample.token = token();
  if (sampling.num_logprobs < 0) return sample;
  sample.logprob = -static_cast<float>(h >> 40) / static_cast<float>(1 << 24);
  for (std::int32_t i = 0; i < sampling.num_logprobs; ++i) {
    sample.top.push_back({.token = i, .logprob = sample.logprob});
  }
  return sample;
}

ScoredToken ScoreOf(std::uint64_t hash, TokenId target) {
  const std::uint64_t h = Extend(Mix(hash, 7), target);
  ScoredToken scored;
  scored.logprob = -static_cast<float>(h >> 40) / static_cast<float>(1 << 24);
  scored.is_greedy = h % 2 == 0;
  return scored;
}

// As if the model had one GOLD layer.
constexpr std::int64_t kGoldRows = 2;
constexpr std::int64_t kKeyBytes = 4;

// The key of a token: so that a key that got lost shows.
std::array<std::byte, kKeyBytes> KeyOf(TokenId token) {
  std::array<std::byte, kKeyBytes> key;
  const TokenId mixed = token ^ 0x5a5a5a5a;
  std::memcpy(key.data(), &mixed, sizeof(mixed));
  return key;
}

EngineInfo InfoOf(const FakeEngineOptions& options) {
  EngineInfo info;
  info.vocab_size = options.vocab_size;
  info.page_tokens = options.page_tokens;
  info.num_pages = options.num_pages;
  info.expanded_pages = options.expanded_pages;
  info.num_slots = options.num_slots;
  info.max_step_tokens = options.max_step_tokens;
  info.prompt_grid = options.prompt_grid;
  info.runs_ahead = options.runs_ahead;
  info.compute_dtype = info.cache_dtype = "f32";
  info.weight_dtype = "int8";
  info.numerics_id = options.numerics_id;
  info.state_bytes = options.state_bytes;
  info.key_bytes = options.num_pages == 0 ? 0 : kKeyBytes;
  info.model_fingerprint = "0123456789abcdef";
  return info;
}

}  // namespace

FakeEngine::FakeEngine(const FakeEngineOptions& options)
    : options_(options),
      info_(InfoOf(options)),
      page_references_(static_cast<std::size_t>(options.num_pages), 0),
      open_references_(page_references_.size(), 0) {
  for (std::int32_t i = 0; i < options.num_slots; ++i) free_slots_.insert(SequenceId{i});
  for (std::int64_t i = 0; i < options.num_pages; ++i) free_pages_.push_back(i);
}

FakeEngine::Sequence& FakeEngine::Find(SequenceId id) {
  const auto it = sequences_.find(id);
  GOLDFINCH_CHECK(it != sequences_.end());
  return it->second;
}

absl::StatusOr<SequenceId> FakeEngine::Open(const SequenceSpec& spec) {
  Sequence sequence;
  sequence.spec = spec;
  return Take(std::move(sequence), info_.PagesFor(spec.max_tokens));
}

absl::StatusOr<SequenceId> FakeEngine::OpenBranch(SequenceId parent_id, std::int64_t at,
                                                  const SequenceSpec& spec) {
  const Sequence& parent = Find(parent_id);
  GOLDFINCH_CHECK(parent.parent == SequenceId::kNone);
  GOLDFINCH_CHECK(parent.num_tokens <= at && at < parent.spec.max_tokens);
  Sequence sequence;
  sequence.spec = spec;
  sequence.parent = parent_id;
  sequence.branch_at = at;
  const std::int64_t shared = info_.num_pages == 0 ? 0 : at / info_.page_tokens;
  sequence.pages.assign(parent.pages.begin(), parent.pages.begin() + shared);
  return Take(std::move(sequence), info_.PagesFor(spec.max_tokens) - shared);
}

absl::StatusOr<SequenceId> FakeEngine::Take(Sequence sequence, std::int64_t new_pages) {
  GOLDFINCH_CHECK(sequence.spec.max_tokens >= 1);
  GOLDFINCH_CHECK(sequence.spec.first_logits >= 0);
  GOLDFINCH_CHECK(steps_.empty());
  {
    MutexLock lock(mu_);
    if (absl::Status status = CountDown(fail_open_); !status.ok()) return status;
  }
  if (free_slots_.empty()) return absl::ResourceExhaustedError("no free slot");
  if (new_pages > std::ssize(free_pages_)) {
    return absl::ResourceExhaustedError("no free pages");
  }
  for (const std::int64_t page : sequence.pages) {
    ++page_references_[static_cast<std::size_t>(page)];
  }
  TakePages(new_pages, sequence.pages);
  for (const std::int64_t page : sequence.pages) {
    ++open_references_[static_cast<std::size_t>(page)];
  }
  const SequenceId id = free_slots_.extract(free_slots_.begin()).value();
  sequences_.emplace(id, std::move(sequence));
  return id;
}

void FakeEngine::TakePages(std::int64_t count, std::vector<std::int64_t>& pages) {
  for (; count > 0; --count) {
    pages.push_back(free_pages_.back());
    free_pages_.pop_back();
    page_references_[static_cast<std::size_t>(pages.back())] = 1;
  }
}

void FakeEngine::ReleasePages(const std::vector<std::int64_t>& pages) {
  for (const std::int64_t page : pages) {
    if (--page_references_[static_cast<std::size_t>(page)] == 0) {
      free_pages_.push_back(page);
    }
  }
}

void FakeEngine::Branch(SequenceId child_id) {
  Sequence& child = Find(child_id);
  GOLDFINCH_CHECK(child.parent != SequenceId::kNone);
  const Sequence& parent = Find(child.parent);
  GOLDFINCH_CHECK(!child.lost && !parent.lost);
  for (const Step& step : steps_) GOLDFINCH_CHECK(step.next.empty());
  GOLDFINCH_CHECK(parent.num_tokens == child.branch_at);
  child.num_tokens = parent.num_tokens;
  child.tokens = parent.tokens;
  child.hash = parent.hash;
  child.gold = parent.gold;
  child.num_expanded = parent.num_expanded;  // pages are shared, what is expanded too
  child.parent = SequenceId::kNone;
}

void FakeEngine::Close(SequenceId id) {
  for (const std::int64_t page : Find(id).pages) {
    --open_references_[static_cast<std::size_t>(page)];
  }
  ReleasePages(Find(id).pages);
  // A branch must not outlive its parent unbranched and then run: Branch would not
  // find the parent, or worse, find another sequence of the same id.
  for (const auto& [other_id, other] : sequences_) {
    GOLDFINCH_CHECK(other.parent != id);
  }
  for (Step& step : steps_) step.next.erase(id);
  sequences_.erase(id);
  free_slots_.insert(id);
}

const FakeEngine::Kept& FakeEngine::Find(PrefixId id) const {
  const auto it = prefixes_.find(id);
  GOLDFINCH_CHECK(it != prefixes_.end());
  return it->second;
}

PrefixId FakeEngine::Keep(SequenceId id) {
  const Sequence& sequence = Find(id);
  GOLDFINCH_CHECK(!sequence.lost && sequence.parent == SequenceId::kNone);
  GOLDFINCH_CHECK(sequence.num_tokens > 0);
  const std::int64_t pages = info_.PagesFor(sequence.num_tokens);
  Kept kept{.pages = {sequence.pages.begin(), sequence.pages.begin() + pages},
            .num_tokens = sequence.num_tokens,
            .tokens = sequence.tokens,
            .hash = sequence.hash,
            .gold = sequence.gold};
  for (const std::int64_t page : kept.pages) {
    ++page_references_[static_cast<std::size_t>(page)];
  }
  const PrefixId prefix{++last_prefix_};  // never used again: a stale one is found out
  prefixes_.emplace(prefix, std::move(kept));
  return prefix;
}

std::int64_t FakeEngine::FullPages(const Kept& kept) const {
  return info_.num_pages == 0 ? 0 : kept.num_tokens / info_.page_tokens;
}

absl::StatusOr<SequenceId> FakeEngine::OpenFrom(PrefixId base_id,
                                                const SequenceSpec& spec,
                                                std::span<const TokenId> history) {
  const Kept& base = Find(base_id);
  const std::int64_t length = base.num_tokens;
  GOLDFINCH_CHECK(length < spec.max_tokens);
  GOLDFINCH_CHECK(base.gold.CanGoOn(kGoldRows, length, spec.first_logits));
  GOLDFINCH_CHECK(std::ssize(history) == length + (spec.num_generated > 0 ? 1 : 0));
  GOLDFINCH_CHECK(std::equal(base.tokens.begin(), base.tokens.end(), history.begin()));
  Sequence sequence;
  sequence.spec = spec;
  sequence.pages.assign(base.pages.begin(), base.pages.begin() + FullPages(base));
  sequence.tokens = base.tokens;
  sequence.num_tokens = length;
  sequence.hash = base.hash;
  sequence.gold = base.gold;
  return Take(std::move(sequence), info_.PagesFor(spec.max_tokens) - FullPages(base));
}

std::int64_t FakeEngine::PagesToOpen(PrefixId base_id, std::int64_t max_tokens) const {
  const Kept& base = Find(base_id);
  const auto full = base.pages.begin() + FullPages(base);
  return info_.PagesFor(max_tokens) -
         std::count_if(base.pages.begin(), full,
                       [this](std::int64_t page) { return IsOpen(page); });
}

void FakeEngine::Drop(PrefixId prefix) {
  ReleasePages(Find(prefix).pages);
  prefixes_.erase(prefix);
}

absl::Status FakeEngine::Save(PrefixId prefix, PrefixImage& image) {
  {
    const MutexLock lock(mu_);
    if (!fail_saves_.ok()) return fail_saves_;
  }
  const Kept& kept = Find(prefix);
  image = PrefixImage();
  image.length = kept.num_tokens;
  // The state, then the keys.
  ++num_saves_;
  const auto state_bytes = static_cast<std::size_t>(info_.state_bytes);
  auto bytes = std::make_shared<std::vector<std::byte>>(state_bytes);
  std::memcpy(bytes->data(), &kept.hash, sizeof(kept.hash));
  if (info_.num_pages > 0) {
    image.tokens = kept.tokens;
    for (const TokenId token : kept.tokens) {
      const auto key = KeyOf(token);
      bytes->insert(bytes->end(), key.begin(), key.end());
    }
  }
  image.state = std::span(*bytes).first(state_bytes);
  image.keys = std::span(*bytes).subspan(state_bytes);
  image.owner = std::move(bytes);
  return absl::OkStatus();
}

absl::Status FakeEngine::CheckImage(const PrefixImage& image) const {
  const std::int64_t tokens = info_.num_pages == 0 ? 0 : image.length;
  bool good = image.length >= 1 && std::ssize(image.tokens) == tokens &&
              std::ssize(image.keys) == tokens * kKeyBytes &&
              std::ssize(image.state) == info_.state_bytes;
  for (std::size_t i = 0; good && i < image.tokens.size(); ++i) {
    const auto key = KeyOf(image.tokens[i]);
    good = std::equal(key.begin(), key.end(), image.keys.begin() + kKeyBytes * i);
  }
  return good ? absl::OkStatus() : absl::InvalidArgumentError("not an image of the fake");
}

absl::StatusOr<PrefixId> FakeEngine::Load(const PrefixImage& image) {
  GOLDFINCH_CHECK(CheckImage(image).ok());
  const std::int64_t pages = info_.PagesFor(image.length);
  if (pages > std::ssize(free_pages_)) {
    return absl::ResourceExhaustedError("no free pages");
  }
  Kept kept;
  TakePages(pages, kept.pages);
  kept.tokens = image.tokens;
  kept.num_tokens = image.length;
  std::memcpy(&kept.hash, image.state.data(), sizeof(kept.hash));
  const PrefixId prefix{++last_prefix_};
  prefixes_.emplace(prefix, std::move(kept));
  return prefix;
}

void FakeEngine::Queue(std::span<const Span> batch, std::span<SpanResult> results) {
  GOLDFINCH_CHECK(steps_.empty());
  GOLDFINCH_CHECK(!batch.empty() && batch.size() == results.size());
  std::int64_t total = 0;
  std::set<SequenceId> seen;
  Step step;
  step.results = results;
  step.found.resize(batch.size());
  for (const Span& span : batch) {
    total += std::ssize(span.tokens);
    GOLDFINCH_CHECK(!span.tokens.empty());
    GOLDFINCH_CHECK(seen.insert(span.sequence).second);
    GOLDFINCH_CHECK(!Find(span.sequence).lost);
    step.sequences.push_back(span.sequence);
  }
  NoteAttended(batch);
  GOLDFINCH_CHECK(total <= info_.max_step_tokens + info_.prompt_grid - 1);
  step.status = NoteForward(batch);
  if (step.status.ok()) {
    for (std::size_t i = 0; i < batch.size(); ++i) RunSpan(batch[i], step.found[i]);
    most_expanded_ = std::max(most_expanded_, std::exchange(expanded_, 0));
  }
  steps_.push_back(std::move(step));
}

bool FakeEngine::QueueNext(std::span<const SequenceId> sequences,
                           std::span<SpanResult> results) {
  GOLDFINCH_CHECK(steps_.size() == 1 && sequences.size() == results.size());
  if (!info_.runs_ahead || sequences.empty()) return false;
  Step& last = steps_.front();
  Settle(last);
  Step step;
  step.results = results;
  step.found.resize(sequences.size());
  // As if their tokens were known.
  std::vector<TokenId> fed(sequences.size());
  std::vector<Span> batch(sequences.size());
  std::size_t before = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const SequenceId id = sequences[i];
    while (last.sequences.at(before) != id) ++before;
    Sequence next = Find(id);
    GOLDFINCH_CHECK(!next.lost && next.num_tokens < next.spec.max_tokens);
    if (last.status.ok()) fed[i] = last.found[before].sample.token;
    Span& span = batch[i];
    span.sequence = id;
    span.tokens = std::span(fed).subspan(i, 1);
    span.output = SpanOutput::kSample;
    if (last.status.ok()) {
      Expand(next, 1);
      Advance(next, span);
      PlaceBlocks(next, span);
      Feed(next, fed[i]);
      Sample(next, step.found[i]);
    }
    step.next.emplace(id, std::move(next));
    step.sequences.push_back(id);
  }
  most_expanded_ = std::max(most_expanded_, std::exchange(expanded_, 0));
  step.status = NoteForward(batch);
  ++num_queued_next_;
  steps_.push_back(std::move(step));
  return true;
}

// Nobody has closed those, so they do go on.
void FakeEngine::Settle(Step& step) {
  for (auto& [id, next] : std::exchange(step.next, {})) Find(id) = std::move(next);
}

absl::Status FakeEngine::Wait() {
  GOLDFINCH_CHECK(!steps_.empty());
  Settle(steps_.front());
  const Step step = std::move(steps_.front());
  steps_.pop_front();
  if (!step.status.ok()) {
    for (auto& [id, sequence] : sequences_) sequence.lost = true;
    steps_.clear();
    return step.status;
  }
  std::ranges::copy(step.found, step.results.begin());
  return absl::OkStatus();
}

std::span<const std::int64_t> FakeEngine::Attended(const Sequence& sequence) const {
  const std::int64_t pages = info_.PagesFor(sequence.num_tokens + 1);
  return std::span(sequence.pages).first(static_cast<std::size_t>(pages));
}

void FakeEngine::NoteAttended(std::span<const Span> batch) {
  std::set<std::int64_t> pages;
  for (const Span& span : batch) {
    const Sequence& sequence = Find(span.sequence);
    if (sequence.num_sampled == 0) continue;
    const std::span<const std::int64_t> mine = Attended(sequence);
    if (std::ssize(mine) <= info_.expanded_pages) pages.insert(mine.begin(), mine.end());
  }
  most_attended_ = std::max(most_attended_, std::ssize(pages));
}

std::size_t FakeEngine::ReserveExpanded(std::span<const SequenceId> sequences) {
  GOLDFINCH_CHECK(steps_.empty());
  std::set<std::int64_t> pages;
  std::set<SequenceId> seen;
  std::size_t count = 0;
  for (const SequenceId id : sequences) {
    GOLDFINCH_CHECK(seen.insert(id).second);
    const std::span<const std::int64_t> mine = Attended(Find(id));
    pages.insert(mine.begin(), mine.end());
    if (count > 0 && std::ssize(pages) > info_.expanded_pages) break;
    ++count;
  }
  return count;
}

Preparation FakeEngine::Prepare(SequenceId id, std::int64_t tokens,
                                std::int64_t max_tokens) {
  Sequence& sequence = Find(id);
  GOLDFINCH_CHECK(steps_.empty());
  GOLDFINCH_CHECK(tokens > 0 && max_tokens >= 0);
  if (!options_.expands || !RunsGold(sequence, tokens)) return {};
  if (options_.expands_in_vain) return {.expanded = max_tokens, .ready = false};
  const std::int64_t missing = sequence.num_tokens - sequence.num_expanded;
  const std::int64_t expanded = std::min(missing, max_tokens);
  sequence.num_expanded += expanded;
  most_expanded_ = std::max(most_expanded_, expanded);
  return {.expanded = expanded, .ready = expanded == missing};
}

// As if the model had GOLD layers.
bool FakeEngine::RunsGold(const Sequence& sequence, std::int64_t tokens) const {
  const std::int64_t begin = GoldRows::Begin(
      kGoldRows, sequence.num_tokens, sequence.spec.keep_at, sequence.spec.first_logits);
  return begin < sequence.num_tokens + tokens;
}

// What the span attends to is expanded by then, if it was not before.
void FakeEngine::Expand(Sequence& sequence, std::int64_t tokens) {
  if (!options_.expands || !RunsGold(sequence, tokens)) return;
  expanded_ += sequence.num_tokens - sequence.num_expanded;
  sequence.num_expanded = sequence.num_tokens + tokens;
}

absl::Status FakeEngine::NoteForward(std::span<const Span> batch) {
  std::function<void(std::span<const Span>)> hook;
  {
    MutexLock lock(mu_);
    hook = hook_;
  }
  if (hook) hook(batch);
  MutexLock lock(mu_);
  ++num_forwards_;
  blocked_ = block_;
  changed_.NotifyAll();
  while (block_) changed_.Wait(mu_);
  blocked_ = false;
  return CountDown(fail_forward_);
}

// Which GOLD rows a real engine would run, checked and noted.
void FakeEngine::Advance(Sequence& sequence, const Span& span) {
  const std::int64_t begin = sequence.num_tokens;
  const std::int64_t end = begin + std::ssize(span.tokens);
  const std::vector<std::int64_t>& keep_at = sequence.spec.keep_at;
  const auto next = std::ranges::upper_bound(keep_at, begin);
  GOLDFINCH_CHECK(next == keep_at.end() || end <= *next);
  sequence.gold.Advance(
      begin, end, GoldRows::Begin(kGoldRows, begin, keep_at, sequence.spec.first_logits));
}

// And where its blocks are.
void FakeEngine::PlaceBlocks(Sequence& sequence, const Span& span) const {
  const std::int64_t grid = info_.prompt_grid;
  const std::int64_t begin = sequence.num_tokens;
  const std::int64_t end = begin + std::ssize(span.tokens);
  const std::int64_t prompt_end = sequence.spec.first_logits;
  sequence.block_begin = sequence.block_end = 0;
  GOLDFINCH_CHECK(info_.SpanEnd(begin, end, prompt_end) == end);
  if (!info_.IsPrompt(begin, prompt_end)) return;
  GOLDFINCH_CHECK(end == prompt_end || end % grid == 0);
  sequence.block_begin = (begin + grid - 1) / grid * grid;
  sequence.block_end = end / grid * grid;
}

void FakeEngine::Feed(Sequence& sequence, TokenId token) const {
  GOLDFINCH_CHECK(token >= 0 && token < info_.vocab_size);
  const std::int64_t at = sequence.num_tokens++;
  sequence.hash = at >= sequence.block_begin && at < sequence.block_end
                      ? ExtendInBlock(sequence.hash, token)
                      : Extend(sequence.hash, token);
  sequence.tokens.push_back(token);
}

void FakeEngine::RunSpan(const Span& span, SpanResult& result) {
  Sequence& sequence = Find(span.sequence);
  GOLDFINCH_CHECK(sequence.parent == SequenceId::kNone);
  GOLDFINCH_CHECK(sequence.num_tokens + std::ssize(span.tokens) <=
                  sequence.spec.max_tokens);
  GOLDFINCH_CHECK(span.output != SpanOutput::kLogits);
  Expand(sequence, std::ssize(span.tokens));
  Advance(sequence, span);
  PlaceBlocks(sequence, span);
  result = SpanResult();
  if (span.output == SpanOutput::kScore) {
    Score(sequence, span, result);
    return;
  }
  for (const TokenId token : span.tokens) Feed(sequence, token);
  if (span.output == SpanOutput::kSample) Sample(sequence, result);
}

// The draw that comes next is counted from the first logits on.
void FakeEngine::Sample(Sequence& sequence, SpanResult& result) const {
  const std::int64_t generated = sequence.num_tokens - 1 - sequence.spec.first_logits;
  GOLDFINCH_CHECK(generated >= 0);
  GOLDFINCH_CHECK(generated == sequence.spec.num_generated + sequence.num_sampled++);
  result.sample =
      SampleOf(sequence.hash, sequence.spec.sampling, generated, info_.vocab_size);
  if (options_.broken_logits)
    result.sample.logprob = -std::numeric_limits<float>::infinity();
}

void FakeEngine::Score(Sequence& sequence, const Span& span, SpanResult& result) {
  const std::int64_t wanted = std::ssize(span.tokens) - span.first_output_row;
  GOLDFINCH_CHECK(wanted >= 1 && std::ssize(span.targets) == wanted);
  GOLDFINCH_CHECK(sequence.num_tokens + span.first_output_row >=
                  sequence.spec.first_logits);
  for (std::int64_t i = 0; i < std::ssize(span.tokens); ++i) {
    Feed(sequence, span.tokens[static_cast<std::size_t>(i)]);
    if (i < span.first_output_row) continue;
    const auto row = static_cast<std::size_t>(i - span.first_output_row);
    result.scores.push_back(ScoreOf(sequence.hash, span.targets[row]));
  }
}

EngineUsage FakeEngine::usage() const {
  EngineUsage usage;
  for (std::size_t page = 0; page < page_references_.size(); ++page) {
    usage.pages_used += page_references_[page] > 0;
    usage.pages_open += open_references_[page] > 0;
    GOLDFINCH_CHECK(page_references_[page] >= open_references_[page]);
    GOLDFINCH_CHECK(open_references_[page] >= 0);
  }
  usage.slots_used = static_cast<std::int32_t>(sequences_.size());
  // Used and free are all there are.
  GOLDFINCH_CHECK(usage.pages_used + std::ssize(free_pages_) == info_.num_pages);
  GOLDFINCH_CHECK(sequences_.size() + free_slots_.size() ==
                  static_cast<std::size_t>(info_.num_slots));
  return usage;
}

std::vector<TokenId> FakeEngine::Expected(std::span<const TokenId> prompt,
                                          const SamplingParams& sampling,
                                          std::int64_t count, std::int32_t vocab_size,
                                          std::int64_t prompt_grid) {
  std::uint64_t hash = HashOfPrompt(prompt, prompt_grid);
  std::vector<TokenId> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(SampleOf(hash, sampling, i, vocab_size).token);
    hash = Extend(hash, tokens.back());
  }
  return tokens;
}

std::vector<ScoredToken> FakeEngine::ExpectedScores(std::span<const TokenId> context,
                                                    std::span<const TokenId> continuation,
                                                    std::int64_t prompt_grid) {
  std::uint64_t hash = HashOfPrompt(context, prompt_grid);
  std::vector<ScoredToken> scores;
  for (const TokenId token : continuation) {
    scores.push_back(ScoreOf(hash, token));
    hash = Extend(hash, token);
  }
  return scores;
}

absl::Status FakeEngine::CountDown(std::optional<Failure>& failure) {
  if (!failure || --failure->countdown > 0) return absl::OkStatus();
  return std::exchange(failure, std::nullopt)->status;
}

void FakeEngine::FailSaves(absl::Status status) {
  const MutexLock lock(mu_);
  fail_saves_ = std::move(status);
}

void FakeEngine::FailOpen(int k, absl::Status status) {
  MutexLock lock(mu_);
  fail_open_ = Failure{.countdown = k, .status = std::move(status)};
}

void FakeEngine::FailForward(int k, absl::Status status) {
  MutexLock lock(mu_);
  fail_forward_ = Failure{.countdown = k, .status = std::move(status)};
}

void FakeEngine::SetForwardHook(std::function<void(std::span<const Span>)> hook) {
  MutexLock lock(mu_);
  hook_ = std::move(hook);
}

void FakeEngine::BlockForward() {
  MutexLock lock(mu_);
  block_ = true;
}

void FakeEngine::WaitUntilBlocked() {
  MutexLock lock(mu_);
  while (!blocked_) changed_.Wait(mu_);
}

void FakeEngine::Release() {
  MutexLock lock(mu_);
  block_ = false;
  changed_.NotifyAll();
}

std::int64_t FakeEngine::num_forwards() const {
  MutexLock lock(mu_);
  return num_forwards_;
}

}  // namespace goldfinch
