#include "engine/model/dtype_names.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace goldfinch {
namespace {

using ::testing::ElementsAre;

TEST(DtypeNamesTest, EveryNameIsThatOfItsType) {
  EXPECT_THAT(ComputeDtypes(), ElementsAre("f32", "bf16"));
  for (const std::string& name : ComputeDtypes())
    EXPECT_EQ(DtypeName(ParseComputeDtype(name).value()), name);
  EXPECT_THAT(WeightDtypes(), ElementsAre("auto", "int8", "fp8"));
  for (const std::string& name : WeightDtypes())
    EXPECT_EQ(DtypeName(ParseStorageDtype(name).value()), name);
}

TEST(DtypeNamesTest, KeysAreNotKeptInFp8) {
  EXPECT_THAT(CacheDtypes(), ElementsAre("auto", "int8"));
}

TEST(DtypeNamesTest, OtherNamesAreNone) {
  for (const char* name : {"", "F32", "bf16 ", "int8", "auto"})
    EXPECT_EQ(ParseComputeDtype(name), std::nullopt) << name;
  for (const char* name : {"", "f32", "bf16", "int4", "Int8"})
    EXPECT_EQ(ParseStorageDtype(name), std::nullopt) << name;
}

}  // namespace
}  // namespace goldfinch
