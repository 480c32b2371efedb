#include "server/cli/metrics_text.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

bool IsBlank(char c) { return c == ' ' || c == '\t'; }

// Reads one line from its left to its right. A method that fails leaves it anywhere.
class LineReader {
 public:
  explicit LineReader(absl::string_view line) : rest_(line) {}

  absl::Status Read(std::string& name, MetricSeries& series) {
    absl::Status status = ReadName(/*colons=*/true, name);
    SkipBlanks();
    if (status.ok() && Take('{')) status = ReadLabels(series);
    if (status.ok()) status = ReadNumbers(series);
    return status;
  }

 private:
  bool Take(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void SkipBlanks() {
    while (!rest_.empty() && IsBlank(rest_.front())) rest_.remove_prefix(1);
  }

  absl::Status ReadName(bool colons, std::string& name) {
    std::size_t size = 0;
    const auto belongs = [&](char c) {
      return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_' ||
             (colons && c == ':') ||
             (size > 0 && absl::ascii_isdigit(static_cast<unsigned char>(c)));
    };
    while (size < rest_.size() && belongs(rest_[size])) ++size;
    if (size == 0) return Wrong("there is no name where one must be");
    if (size > MetricsText::kMaxNameBytes)
      return Wrong(absl::StrCat("a name has ", size, " bytes; the limit is ",
                                MetricsText::kMaxNameBytes));
    name.assign(rest_.data(), size);
    rest_.remove_prefix(size);
    return absl::OkStatus();
  }

  // After the opening brace, up to and with the closing one. A comma may follow the last.
  absl::Status ReadLabels(MetricSeries& series) {
    for (SkipBlanks(); !Take('}'); SkipBlanks()) {
      if (series.labels.size() == MetricsText::kMaxLabels)
        return Wrong(
            absl::StrCat("a series has more than ", MetricsText::kMaxLabels, " labels"));
      auto& [name, value] = series.labels.emplace_back();
      if (absl::Status status = ReadName(/*colons=*/false, name); !status.ok())
        return status;
      SkipBlanks();
      if (!Take('=')) return Wrong("a label has no =");
      SkipBlanks();
      if (absl::Status status = ReadQuoted(value); !status.ok()) return status;
      SkipBlanks();
      if (!Take(',') && (rest_.empty() || rest_.front() != '}'))
        return Wrong("there is neither , nor } after a label");
    }
    return absl::OkStatus();
  }

  absl::Status ReadQuoted(std::string& value) {
    if (!Take('"')) return Wrong("a label's value is not quoted");
    while (!Take('"')) {
      if (rest_.empty()) return Wrong("a label's value does not end");
      if (value.size() == MetricsText::kMaxValueBytes)
        return Wrong(absl::StrCat("a label's value has more than ",
                                  MetricsText::kMaxValueBytes, " bytes"));
      char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == '\\') {
        if (rest_.empty()) return Wrong("a label's value does not end");
        c = rest_.front();
        rest_.remove_prefix(1);
        if (c == 'n') {
          c = '\n';
        } else if (c != '\\' && c != '"') {
          return Wrong("a label's value has an unknown escape");
        }
      }
      value.push_back(c);
    }
    return absl::OkStatus();
  }

  // The value, and a time stamp that nobody here needs.
  absl::Status ReadNumbers(MetricSeries& series) {
    if (!absl::SimpleAtod(TakeWord(), &series.value))
      return Wrong("a value is not a number");
    std::int64_t time = 0;
    const absl::string_view stamp = TakeWord();
    if (!stamp.empty() && !absl::SimpleAtoi(stamp, &time))
      return Wrong("a time stamp is not a whole number");
    SkipBlanks();
    return rest_.empty() ? absl::OkStatus() : Wrong("something follows the time stamp");
  }
  absl::string_view TakeWord() {
    SkipBlanks();
    const auto end = std::find_if(rest_.begin(), rest_.end(), IsBlank);
    const auto word = rest_.substr(0, static_cast<std::size_t>(end - rest_.begin()));
    rest_.remove_prefix(word.size());
    return word;
  }

  absl::string_view rest_;
};

}  // namespace

const std::string* MetricSeries::Label(absl::string_view name) const {
  for (const auto& [label, text] : labels) {
    if (label == name) return &text;
  }
  return nullptr;
}

absl::StatusOr<MetricsText> MetricsText::Parse(absl::string_view text) {
  if (text.size() > kMaxBytes)
    return absl::InvalidArgumentError(
        absl::StrCat("there are ", text.size(), " bytes; the limit is ", kMaxBytes));
  MetricsText result;
  std::size_t count = 0;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const absl::string_view line = absl::StripAsciiWhitespace(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    if (++count > kMaxSeries)
      return absl::InvalidArgumentError(
          absl::StrCat("there are more than ", kMaxSeries, " series"));
    std::string name;
    MetricSeries series;
    if (absl::Status status = LineReader(line).Read(name, series); !status.ok())
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", status.message()));
    std::vector<MetricSeries>& all = result.series_[name];
    if (all.size() == kMaxSeriesOfName)
      return absl::InvalidArgumentError(
          absl::StrCat("there are more than ", kMaxSeriesOfName, " series of ", name));
    all.push_back(std::move(series));
  }
  return result;
}

std::span<const MetricSeries> MetricsText::All(absl::string_view name) const {
  const auto found = series_.find(name);
  if (found == series_.end()) return {};
  return found->second;
}

std::optional<double> MetricsText::Find(absl::string_view name,
                                        const Labels& labels) const {
  for (const MetricSeries& series : All(name)) {
    const bool fits = std::all_of(labels.begin(), labels.end(), [&](const auto& wanted) {
      const std::string* value = series.Label(wanted.first);
      return value != nullptr && *value == wanted.second;
    });
    if (fits) return series.value;
  }
  return std::nullopt;
}

}  // namespace goldfinch
