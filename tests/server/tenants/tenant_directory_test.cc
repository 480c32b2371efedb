// Keys find their tenants, and a reload is all or nothing.
#include "server/tenants/tenant_directory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "tests/server/tenants/keys.h"

namespace goldfinch {
namespace {

class TenantDirectoryTest : public testing::Test {
 protected:
  ~TenantDirectoryTest() override { std::remove(path_.c_str()); }

  // As a careful operator does: never half a file.
  void Write(const std::string& entries) const {
    const std::string draft = path_ + ".new";
    std::ofstream(draft) << "{\"tenants\": [" << entries << "]}";
    ASSERT_EQ(chmod(draft.c_str(), 0600), 0);
    ASSERT_EQ(std::rename(draft.c_str(), path_.c_str()), 0);
  }

  // The tenant of a header, or "-".
  static std::string NameOf(const TenantDirectory& directory, const std::string& header) {
    const auto tenant = directory.Authenticate(header);
    if (tenant.ok()) return (*tenant)->name;
    EXPECT_EQ(tenant.status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(tenant.status().message(),
              "a valid key is needed (authorization: Bearer KEY)");
    return "-";
  }

  const std::string path_ =
      absl::StrCat(testing::TempDir(), "/goldfinch_directory_", getpid(), ".json");
};

TEST_F(TenantDirectoryTest, AKeyFindsItsTenant) {
  Write(absl::StrCat("{\"name\": \"a\", \"key_sha256\": [\"", HashOfKey("one"), "\", \"",
                     absl::AsciiStrToUpper(HashOfKey("two")), "\"]},",
                     TenantEntry("b", "three")));
  const auto directory = TenantDirectory::Load(path_).value();
  EXPECT_FALSE(directory->anonymous());
  EXPECT_EQ(NameOf(*directory, "Bearer one"), "a");
  EXPECT_EQ(NameOf(*directory, "Bearer two"), "a");
  EXPECT_EQ(NameOf(*directory, "bearer three"), "b");
  EXPECT_EQ(NameOf(*directory, "BEARER three"), "b");
  ASSERT_EQ(directory->tenants().size(), 2u);
  EXPECT_EQ(directory->tenants()[1]->name, "b");
}

TEST_F(TenantDirectoryTest, EverythingElseIsRefusedInTheSameWords) {
  Write(TenantEntry("a", "one"));
  const auto directory = TenantDirectory::Load(path_).value();
  for (const std::string& header :
       {std::string(), std::string("one"), std::string("Bearer"), std::string("Bearer "),
        std::string("Bearer  one"), std::string("Bearer one "), std::string("Bearer on"),
        std::string("Bearer One"), std::string("Basic one"), std::string("Bearer\tone"),
        std::string("Bearer one\0", 11), "Bearer " + HashOfKey("one"),
        "Bearer " + std::string(513, 'x'), "Bearer " + std::string(1000000, 'x'),
        std::string("Bearer one, Bearer one")}) {
    EXPECT_EQ(NameOf(*directory, header), "-") << header.substr(0, 100);
  }
}

TEST_F(TenantDirectoryTest, WithoutAFileEverybodyIsOneTenant) {
  const auto directory = TenantDirectory::Anonymous();
  EXPECT_TRUE(directory->anonymous());
  EXPECT_EQ(NameOf(*directory, ""), "default");
  EXPECT_EQ(NameOf(*directory, "Bearer anything"), "default");
  EXPECT_TRUE(directory->Authenticate("").value()->admin);
  EXPECT_EQ(directory->Reload().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(TenantDirectoryTest, AReloadTakesKeysAwayAndAddsOthers) {
  Write(TenantEntry("a", "one"));
  const auto directory = TenantDirectory::Load(path_).value();
  const TenantDirectory::TenantPtr held = directory->Authenticate("Bearer one").value();
  Write(TenantEntry("b", "two"));
  EXPECT_EQ(NameOf(*directory, "Bearer one"), "a");  // not before it is asked for
  ASSERT_TRUE(directory->Reload().ok());
  EXPECT_EQ(NameOf(*directory, "Bearer one"), "-");
  EXPECT_EQ(NameOf(*directory, "Bearer two"), "b");
  EXPECT_EQ(held->name, "a");  // who has it keeps it
}

TEST_F(TenantDirectoryTest, ABadFileChangesNothing) {
  Write(TenantEntry("a", "one"));
  const auto directory = TenantDirectory::Load(path_).value();
  for (const std::string& bad :
       {std::string("nonsense"), TenantEntry("b", "two") + "," + TenantEntry("b", "x")}) {
    Write(bad);
    EXPECT_EQ(directory->Reload().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(NameOf(*directory, "Bearer one"), "a");
    EXPECT_EQ(NameOf(*directory, "Bearer two"), "-");
  }
  std::remove(path_.c_str());
  EXPECT_FALSE(directory->Reload().ok());
  EXPECT_EQ(NameOf(*directory, "Bearer one"), "a");
}

TEST_F(TenantDirectoryTest, WhatTheFormerOnesCountNeverLeapsNorFalls) {
  Write(TenantEntry("a", "one") + "," + TenantEntry("b", "two"));
  const auto directory = TenantDirectory::Load(path_).value();
  const auto meter = directory->Authenticate("Bearer one").value()->meter;
  meter->prompt_tokens = 1000;
  EXPECT_EQ(directory->ReadFormer().prompt, 0);
  for (int round = 1; round <= 2; ++round) {
    Write(TenantEntry("b", "two"));
    ASSERT_TRUE(directory->Reload().ok());
    ASSERT_TRUE(directory->Reload().ok());
    EXPECT_EQ(directory->ReadFormer().prompt, 10 * (round - 1));
    meter->prompt_tokens += 10;  // a request that goes on
    meter->running_requests = 1;
    EXPECT_EQ(directory->ReadFormer().prompt, 10 * round);
    EXPECT_EQ(directory->ReadFormer().running, 1);
    Write(TenantEntry("a", "one") + "," + TenantEntry("b", "two"));
    ASSERT_TRUE(directory->Reload().ok());
    EXPECT_EQ(directory->Authenticate("Bearer one").value()->meter, meter);
    meter->prompt_tokens += 500;  // its own again
    EXPECT_EQ(directory->ReadFormer().prompt, 10 * round);
    EXPECT_EQ(directory->ReadFormer().running, 0);
  }
}

TEST_F(TenantDirectoryTest, NoCallSeesHalfAReload) {
  Write(TenantEntry("a", "one"));
  const auto directory = TenantDirectory::Load(path_).value();
  std::atomic<bool> stop = false;
  std::thread caller([&] {
    while (!stop) {
      // Both files have this key, under different names.
      const std::string name = NameOf(*directory, "Bearer one");
      EXPECT_TRUE(name == "a" || name == "b") << name;
    }
  });
  for (int i = 0; i < 200; ++i) {
    Write(i % 2 == 0 ? TenantEntry("z", "two") + "," + TenantEntry("b", "one")
                     : TenantEntry("a", "one"));
    EXPECT_TRUE(directory->Reload().ok());
  }
  stop = true;
  caller.join();
}

}  // namespace
}  // namespace goldfinch
