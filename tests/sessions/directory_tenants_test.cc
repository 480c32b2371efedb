#include "sessions/directory_tenants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace goldfinch {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::string kA(32, 'a'), kB(32, 'b'), kC(32, 'c');

class DirectoryTenantsTest : public ::testing::Test {
 protected:
  std::vector<std::string> IdsOf(const std::string& tenant,
                                 const std::string& after = "") {
    std::vector<NamedFile> files = {{"lock", 1}, {kA + ".claim", 2}};
    // In no order.
    for (auto it = inodes_.rbegin(); it != inodes_.rend(); ++it) {
      files.push_back({it->first + ".snapshot", it->second});
    }
    return tenants_.IdsOf(tenant, after, files);
  }

  std::map<std::string, std::uint64_t> inodes_ = {{kA, 10}, {kB, 11}, {kC, 12}};
  std::map<std::string, std::string> owners_ = {{kA, "t"}, {kB, "u"}, {kC, "t"}};
  std::vector<std::string> read_;
  DirectoryTenants tenants_{[this](const std::string& id) -> absl::StatusOr<std::string> {
    read_.push_back(id);
    const auto owner = owners_.find(id);
    if (owner == owners_.end()) return absl::DataLossError("damaged");
    return owner->second;
  }};
};

TEST_F(DirectoryTenantsTest, EachFileIsReadOnce) {
  EXPECT_THAT(IdsOf("t"), ElementsAre(kA, kC));
  EXPECT_THAT(read_, ElementsAre(kA, kB, kC));
  EXPECT_THAT(IdsOf("t", kA), ElementsAre(kC));
  EXPECT_THAT(IdsOf("u"), ElementsAre(kB));
  EXPECT_THAT(IdsOf("nobody"), IsEmpty());
  EXPECT_EQ(read_.size(), 3u);
}

TEST_F(DirectoryTenantsTest, WhatIsAboveThePageIsKnownAfterItAsWell) {
  EXPECT_THAT(IdsOf("t", kC), IsEmpty());
  EXPECT_THAT(IdsOf("t"), ElementsAre(kA, kC));
  EXPECT_EQ(read_.size(), 3u);
}

TEST_F(DirectoryTenantsTest, AFileThatReplacesAnotherIsReadAnew) {
  IdsOf("t");
  read_.clear();
  inodes_[kB] = 13;
  owners_[kB] = "t";
  EXPECT_THAT(IdsOf("t"), ElementsAre(kA, kB, kC));
  EXPECT_THAT(read_, ElementsAre(kB));
}

// Even with the same inode number, which a file system may use again.
TEST_F(DirectoryTenantsTest, WhatWasGoneAndComesBackAnotherTenantsIsReadAnew) {
  IdsOf("t");
  const std::uint64_t inode = inodes_[kA];
  inodes_.erase(kA);
  EXPECT_THAT(IdsOf("t"), ElementsAre(kC));
  inodes_[kA] = inode;
  owners_[kA] = "u";
  read_.clear();
  EXPECT_THAT(IdsOf("u"), ElementsAre(kA, kB));
  EXPECT_THAT(IdsOf("t"), ElementsAre(kC));
  EXPECT_THAT(read_, ElementsAre(kA));
}

TEST_F(DirectoryTenantsTest, WhatCannotBeReadIsNobodysUntilItCan) {
  owners_.erase(kA);
  EXPECT_THAT(IdsOf("t"), ElementsAre(kC));
  EXPECT_THAT(IdsOf(""), IsEmpty());
  owners_[kA] = "t";
  EXPECT_THAT(IdsOf("t"), ElementsAre(kA, kC));
}

}  // namespace
}  // namespace goldfinch
