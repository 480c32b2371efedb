#include "engine/sync/usable_cpus.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace goldfinch {
namespace {

// Files as the system shows them, below a root of their own.
class CpuQuotaTest : public testing::Test {
 protected:
  ~CpuQuotaTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  std::optional<int> Quota() const { return CpuQuota(root_); }

  const std::string root_ =
      absl::StrCat(testing::TempDir(), "/goldfinch_cpu_quota_", getpid());
};

TEST_F(CpuQuotaTest, NothingToReadIsNone) {
  EXPECT_EQ(Quota(), std::nullopt);
  Write("/proc/self/cgroup", "nonsense\n\n0:\n0::\n0::relative\n3:cpuset:/a\n");
  EXPECT_EQ(Quota(), std::nullopt);
}

TEST_F(CpuQuotaTest, IsRoundedUp) {
  Write("/proc/self/cgroup", "0::/\n");
  for (const auto& [text, want] : {std::pair{"max 100000\n", std::optional<int>()},
                                   {"200000 100000\n", 2},
                                   {"150000 100000\n", 2},
                                   {"5000 100000\n", 1},
                                   {"1600000 50000\n", 32},
                                   {"0 100000\n", std::nullopt},
                                   {"100000\n", std::nullopt},
                                   {"100000 0\n", std::nullopt},
                                   {"1e300 1\n", 1'000'000},
                                   {"nan 100000\n", std::nullopt},
                                   {"", std::nullopt}}) {
    Write("/sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(Quota(), want) << text;
  }
}

TEST_F(CpuQuotaTest, TheLeastOnTheWayUpCounts) {
  Write("/proc/self/cgroup", "0::/kubepods.slice/pod.slice/container\n");
  Write("/sys/fs/cgroup/kubepods.slice/cpu.max", "6400000 100000\n");
  Write("/sys/fs/cgroup/kubepods.slice/pod.slice/cpu.max", "300000 100000\n");
  Write("/sys/fs/cgroup/kubepods.slice/pod.slice/container/cpu.max", "max 100000\n");
  EXPECT_EQ(Quota(), 3);
}

TEST_F(CpuQuotaTest, VersionOneHasTwoFilesInAFolderOfItsOwn) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/docker/c\n4:memory:/docker/c\n0::/\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota(), std::nullopt);
  Write("/sys/fs/cgroup/cpu/docker/c/cpu.cfs_quota_us", "250000\n");
  Write("/sys/fs/cgroup/cpu/docker/c/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota(), 3);
}

TEST(UsableCpusTest, AreSomeAndNoMoreThanAllowed) {
  EXPECT_GE(AllowedCpus(), 1);
  EXPECT_GE(UsableCpus(), 1);
  EXPECT_LE(UsableCpus(), AllowedCpus());
}

}  // namespace
}  // namespace goldfinch
