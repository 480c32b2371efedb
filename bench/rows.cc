#include "bench/rows.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace goldfinch {

Rows::Rows(bool json, int decimals) : json_(json), decimals_(decimals) {
  if (!json)
    std::printf("%-32s %14s %-10s %14s %7s\n", "case", "measured", "unit", "limit",
                "ratio");
}

void Rows::Print(const std::string& name, double measured, const char* unit,
                 double limit) const {
  const double ratio = limit > 0 ? measured / limit : 0;
  if (json_) {
    std::printf("%s\n", nlohmann::json{{"name", name},
                                       {"measured", measured},
                                       {"unit", unit},
                                       {"limit", limit},
                                       {"ratio", ratio}}
                            .dump()
                            .c_str());
  } else {
    std::printf("%-32s %14.*f %-10s %14.*f %7.3f\n", name.c_str(), decimals_, measured,
                unit, decimals_, limit, ratio);
  }
  std::fflush(stdout);
}

}  // namespace goldfinch
