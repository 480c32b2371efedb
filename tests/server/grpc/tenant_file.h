// A tenants file that a test may rewrite.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/server/tenants/keys.h"

namespace goldfinch {

class TenantFile {
 public:
  // `entries` as TenantEntry makes them, with commas between.
  explicit TenantFile(const std::string& entries) : path_(NewPath()) { Write(entries); }
  ~TenantFile() { std::remove(path_.c_str()); }
  TenantFile(const TenantFile&) = delete;
  TenantFile& operator=(const TenantFile&) = delete;

  const std::string& path() const { return path_; }

  // In one piece, as a careful operator does.
  void Write(const std::string& entries) const {
    const std::string draft = path_ + ".new";
    std::ofstream(draft) << "{\"tenants\": [" << entries << "]}";
    EXPECT_EQ(chmod(draft.c_str(), 0600), 0);
    EXPECT_EQ(std::rename(draft.c_str(), path_.c_str()), 0);
  }

 private:
  static std::string NewPath() {
    static std::atomic<int> next = 0;
    return absl::StrCat(testing::TempDir(), "/goldfinch_tenants_", getpid(), "_", next++,
                        ".json");
  }

  const std::string path_;
};

}  // namespace goldfinch
