# Third-party libraries, all from Debian 12. Each line says how it wants to be
# found; docs of the packages themselves are not always right about this.

find_package(absl CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)

if(GOLDFINCH_SERVER)
  find_package(Protobuf MODULE REQUIRED)  # it ships no CMake config
  find_package(gRPC CONFIG REQUIRED)
  find_package(prometheus-cpp CONFIG REQUIRED)
  find_package(civetweb CONFIG REQUIRED)  # what prometheus-cpp serves with
  find_package(CURL REQUIRED)
endif()
if(GOLDFINCH_TESTS)
  find_package(GTest CONFIG REQUIRED)
endif()
if(GOLDFINCH_BENCH)
  find_package(benchmark CONFIG REQUIRED)
endif()
