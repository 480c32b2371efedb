// config.json: what is read, and that every wrong field is refused by name.
#include "engine/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/engine/model/random_model.h"
#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {
namespace {

struct Field {
  std::string name;
  std::string value;  // JSON; empty: the field is left out
};

using Fields = std::vector<Field>;

Fields GoodFields() {
  return {{"tmix", "\"x060c2\""},
          {"tmix2", "\"gold\""},
          {"cmix", "\"x060\""},
          {"cmix2", "\"x060\""},
          {"n_layer", "6"},
          {"n_embd", "128"},
          {"vocab_size", "65536"},
          {"dim_att", "128"},
          {"dim_ffn", "256"},
          {"head_size", "64"},
          {"head_size_divisor", "8"},
          {"inv_other_layer_ratio", "3"},
          {"kv_cache_compression_ratio", "16"},
          {"ctx_len", "4096"},
          {"use_one_minus_w", "1"},
          {"use_v2", "0"},
          {"rope", "null"}};
}

std::string JsonOf(const Fields& fields) {
  std::string json = "{";
  for (const Field& field : fields) {
    if (field.value.empty()) continue;
    absl::StrAppend(&json, json.size() > 1 ? ", \"" : "\"", field.name,
                    "\": ", field.value);
  }
  return json + "}";
}

// The good config with some fields replaced or added.
std::string With(const Fields& changes) {
  Fields fields = GoodFields();
  for (const Field& change : changes) {
    bool replaced = false;
    for (Field& field : fields) {
      if (field.name != change.name) continue;
      field.value = change.value;
      replaced = true;
    }
    if (!replaced) fields.push_back(change);
  }
  return JsonOf(fields);
}

std::string MessageOf(const std::string& json) {
  const auto config = ParseModelConfig(json);
  return config.ok() ? "it was read" : std::string(config.status().message());
}

TEST(ConfigTest, FieldsAreReadAsTheyStand) {
  const auto config = ParseModelConfig(With({}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->tmix, TimeMix::kFinchC2);
  EXPECT_TRUE(config->gold);
  EXPECT_EQ(config->n_layer, 6);
  EXPECT_EQ(config->n_embd, 128);
  EXPECT_EQ(config->vocab_size, 65536);
  EXPECT_EQ(config->dim_att, 128);
  EXPECT_EQ(config->dim_ffn, 256);
  EXPECT_EQ(config->head_size_divisor, 8);
  EXPECT_EQ(config->ctx_len, 4096);
  EXPECT_TRUE(config->use_one_minus_w);
  EXPECT_FALSE(config->use_v2);
  EXPECT_FALSE(config->rope.has_value());
  EXPECT_EQ(config->num_heads(), 2);
  EXPECT_EQ(config->compressed_dim(), 8);
}

TEST(ConfigTest, ZeroDimFfnMeansThreeAndAHalfTimesTheWidth) {
  EXPECT_EQ(ParseModelConfig(With({{"dim_ffn", "0"}}))->dim_ffn, 448);
  EXPECT_EQ(ParseModelConfig(With({{"dim_ffn", "251"}}))->dim_ffn, 251);
}

TEST(ConfigTest, RopeDefaultsToNoScaling) {
  const auto plain = ParseModelConfig(With({{"rope", "{\"base\": 10000}"}}));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->rope->base, 10000);
  EXPECT_EQ(plain->rope->rescale, 1);
  EXPECT_EQ(plain->rope->rebase, 1);
  const auto scaled = ParseModelConfig(
      With({{"rope", "{\"base\": 1e4, \"rescale\": 2.5, \"rebase\": 8, \"more\": []}"}}));
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  EXPECT_EQ(scaled->rope->rescale, 2.5);
  EXPECT_EQ(scaled->rope->rebase, 8);
}

TEST(ConfigTest, FlagsMayBeBooleansRopeAbsentAndOtherFieldsAnything) {
  const auto config =
      ParseModelConfig(With({{"use_v2", "true"},
                             {"use_one_minus_w", "false"},
                             {"rope", ""},
                             {"learning_rate", "[1e-4, {\"n_layer\": 9}]"}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->use_v2);
  EXPECT_FALSE(config->use_one_minus_w);
  EXPECT_FALSE(config->rope.has_value());
  EXPECT_EQ(config->n_layer, 6);
}

TEST(ConfigTest, WithoutGoldLayersWidthsMayDifferAndRatiosAreNotRead) {
  const auto config = ParseModelConfig(With({{"tmix", "\"x060\""},
                                             {"tmix2", "\"\""},
                                             {"dim_att", "192"},
                                             {"n_layer", "1"},
                                             {"inv_other_layer_ratio", "0"},
                                             {"kv_cache_compression_ratio", "0"}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->tmix, TimeMix::kFinch);
  EXPECT_FALSE(config->gold);
  EXPECT_EQ(config->num_heads(), 3);
  EXPECT_EQ(config->num_recurrent(), 1);
  EXPECT_EQ(config->num_gold(), 0);
}

TEST(ConfigTest, LayersBelowGoldAreTheIntegerPartOfTheRatio) {
  ModelConfig config;
  const auto recurrent = [&config](int layers, int ratio) {
    config.n_layer = layers;
    config.inv_other_layer_ratio = ratio;
    return config.num_recurrent();
  };
  EXPECT_EQ(recurrent(24, 3), 16);
  EXPECT_EQ(recurrent(12, 2), 6);
  EXPECT_EQ(recurrent(4, 3), 2);
  EXPECT_EQ(recurrent(6, 6), 5);
  EXPECT_EQ(recurrent(2, 2), 1);
  EXPECT_EQ(recurrent(1, 2), 0);
  EXPECT_EQ(recurrent(1024, 2147483647), 1023);
}

TEST(ConfigTest, EveryRequiredFieldIsMissed) {
  for (const Field& field : GoodFields()) {
    if (field.name == "rope") continue;
    EXPECT_THAT(
        MessageOf(With({{field.name, ""}})),
        testing::StartsWith("config.json: " + field.name + " is missing; it must"))
        << field.name;
  }
}

struct WrongConfig {
  Fields changes;
  std::string message;  // after "config.json: "
};

std::ostream& operator<<(std::ostream& out, const WrongConfig& one) {
  return out << one.message;
}

class WrongConfigTest : public testing::TestWithParam<WrongConfig> {};

TEST_P(WrongConfigTest, IsRefusedWithItsValueAndBounds) {
  EXPECT_EQ(MessageOf(With(GetParam().changes)), "config.json: " + GetParam().message);
}

const WrongConfig kOutOfRange[] = {
    {{{"tmix", "\"x070\""}}, "tmix is \"x070\"; it must be \"x060c2\" or \"x060\""},
    {{{"tmix", "6"}}, "tmix is 6; it must be \"x060c2\" or \"x060\""},
    {{{"tmix2", "\"silver\""}}, "tmix2 is \"silver\"; it must be \"gold\" or \"\""},
    {{{"cmix", "\"x052\""}}, "cmix is \"x052\"; it must be \"x060\""},
    {{{"cmix2", "\"\""}}, "cmix2 is \"\"; it must be \"x060\""},
    {{{"n_layer", "0"}}, "n_layer is 0; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "1025"}}, "n_layer is 1025; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "-3"}}, "n_layer is -3; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "6.0"}}, "n_layer is 6.0; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "\"6\""}},
     "n_layer is \"6\"; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "null"}}, "n_layer is null; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "[6]"}}, "n_layer is a list; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "4294967302"}},
     "n_layer is 4294967302; it must be a whole number from 1 to 1024"},
    {{{"n_layer", "18446744073709551615"}},
     "n_layer is 18446744073709551615; it must be a whole number from 1 to 1024"},
    {{{"n_embd", "65600"}},
     "n_embd is 65600; it must be a whole number from 64 to 65536"},
    {{{"vocab_size", "1048577"}},
     "vocab_size is 1048577; it must be a whole number from 1 to 1048576"},
    {{{"dim_att", "0"}}, "dim_att is 0; it must be a whole number from 64 to 65536"},
    {{{"dim_ffn", "-32"}}, "dim_ffn is -32; it must be a whole number from 0 to 1048576"},
    {{{"head_size", "32"}}, "head_size is 32; it must be 64"},
    {{{"head_size_divisor", "0"}},
     "head_size_divisor is 0; it must be a number from 1e-06 to 1e+12"},
    {{{"head_size_divisor", "true"}},
     "head_size_divisor is true; it must be a number from 1e-06 to 1e+12"},
    {{{"inv_other_layer_ratio", "1"}},
     "inv_other_layer_ratio is 1; it must be a whole number from 2 to 2147483647"},
    {{{"kv_cache_compression_ratio", "0"}},
     "kv_cache_compression_ratio is 0; it must be a whole number from 1 to 2147483647"},
    {{{"ctx_len", "0"}}, "ctx_len is 0; it must be a whole number from 1 to 2147483647"},
    {{{"use_v2", "2"}}, "use_v2 is 2; it must be 0, 1, false or true"},
    {{{"use_v2", "-1"}}, "use_v2 is -1; it must be 0, 1, false or true"},
    {{{"use_one_minus_w", "\"yes\""}},
     "use_one_minus_w is \"yes\"; it must be 0, 1, false or true"},
    {{{"rope", "10000"}}, "rope is 10000; it must be null or an object with base"},
    {{{"rope", "{}"}}, "rope.base is missing; it must be a number from 1e-06 to 1e+12"},
    {{{"rope", "{\"base\": -1}"}},
     "rope.base is -1; it must be a number from 1e-06 to 1e+12"},
    {{{"rope", "{\"base\": 2, \"rescale\": 0.0}"}},
     "rope.rescale is 0.0; it must be a number from 1e-06 to 1e+12"},
    {{{"rope", "{\"base\": 2, \"rebase\": null}"}},
     "rope.rebase is null; it must be a number from 1e-06 to 1e+12"},
};
INSTANTIATE_TEST_SUITE_P(OutOfRange, WrongConfigTest, testing::ValuesIn(kOutOfRange));

const WrongConfig kContradicting[] = {
    {{{"n_embd", "100"}}, "n_embd is 100; it must be a multiple of head_size 64"},
    {{{"tmix2", "\"\""}, {"dim_att", "100"}},
     "dim_att is 100; it must be a multiple of head_size 64"},
    {{{"dim_att", "192"}},
     "dim_att is 192; with tmix2 \"gold\" it must equal n_embd 128"},
    {{{"n_layer", "1"}},
     "n_layer is 1; with tmix2 \"gold\" it must be at least 2, for one recurrent layer "
     "below the GOLD layers"},
    {{{"kv_cache_compression_ratio", "48"}},
     "kv_cache_compression_ratio is 48; it must divide n_embd 128"},
    {{{"kv_cache_compression_ratio", "256"}},
     "kv_cache_compression_ratio is 256; it must divide n_embd 128"},
};
INSTANTIATE_TEST_SUITE_P(Contradicting, WrongConfigTest,
                         testing::ValuesIn(kContradicting));

TEST(ConfigTest, WhatIsNotOneJsonObjectIsRefused) {
  EXPECT_EQ(MessageOf(""), "config.json: it is not JSON: it breaks at its byte 1");
  EXPECT_EQ(MessageOf("{\"tmix\": x"),
            "config.json: it is not JSON: it breaks at its byte 10");
  EXPECT_EQ(MessageOf("{} {}"), "config.json: it is not JSON: it breaks at its byte 4");
  EXPECT_EQ(MessageOf("{\"a\": 1e999}"),
            "config.json: it is not JSON: a number in it is out of range");
  EXPECT_EQ(MessageOf("[1]"), "config.json: it is not a JSON object");
}

TEST(ConfigTest, AFieldGivenTwiceIsRefused) {
  const std::string twice =
      absl::StrReplaceAll(With({}), {{"\"n_layer\"", "\"n_layer\": 5, \"n_layer\""}});
  EXPECT_EQ(MessageOf(twice), "config.json: the field \"n_layer\" occurs twice");
  EXPECT_EQ(MessageOf(With({{"rope", "{\"base\": 2, \"base\": 3}"}})),
            "config.json: the field \"base\" occurs twice");
}

TEST(ConfigTest, DeepNestingIsHarmless) {
  const std::string deep(100'000, '[');
  EXPECT_EQ(MessageOf(deep), "config.json: it is not JSON: it breaks at its byte 100001");
  const std::string closed = deep + std::string(100'000, ']');
  EXPECT_EQ(MessageOf(With({{"n_layer", closed}})),
            "config.json: n_layer is a list; it must be a whole number from 1 to 1024");
  EXPECT_TRUE(ParseModelConfig(With({{"other", closed}})).ok());
}

TEST(ConfigTest, ALongValueIsShownInPart) {
  EXPECT_EQ(MessageOf(With({{"tmix", "\"" + std::string(1000, 'x') + "\""}})),
            "config.json: tmix is \"" + std::string(39, 'x') +
                "...; it must be \"x060c2\" or \"x060\"");
}

TEST(ConfigTest, FilesAreReadWithinALimit) {
  const TempFolder folder;
  const std::string path = (folder.path() / "config.json").string();
  EXPECT_EQ(std::string(LoadModelConfig(path).status().message()),
            "config.json: cannot be read: No such file or directory");
  EXPECT_EQ(std::string(LoadModelConfig(folder.path().string()).status().message()),
            "config.json: cannot be read: it is not a regular file");
  WriteFile(path, With({}));
  EXPECT_TRUE(LoadModelConfig(path).ok());
  WriteFile(path, With({}) + std::string(1'000'000, ' '));
  EXPECT_THAT(std::string(LoadModelConfig(path).status().message()),
              testing::EndsWith(" bytes; the limit is 1000000"));
}

TEST(ConfigTest, AWrittenConfigReadsBack) {
  ModelConfig config = SmallestConfig();
  config.rope = Rope{.base = 1234.5, .rescale = 0.1, .rebase = 3};
  config.use_v2 = false;
  const auto read = ParseModelConfig(ConfigJson(config));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ConfigJson(*read), ConfigJson(config));
}

}  // namespace
}  // namespace goldfinch
