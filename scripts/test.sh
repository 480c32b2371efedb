#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#
#   scripts/test.sh               # the release preset
#   scripts/test.sh asan tsan     # these presets instead, one after another
#
# GOLDFINCH_TEST_DATA names a folder with data/rwkv_vocab_v20230424.txt and data/books:
# tests that need them are skipped, saying so, without it. GOLDFINCH_LONG_TESTS=1 runs
# the long modes too. Exit code 64 for wrong arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

# Those that can be tested, so before anything is installed for one that is none.
known=$(sed -n '/"testPresets"/,$s/.*"name": "\([a-z]*\)".*/\1/p' CMakePresets.json)
usage() {
  echo "usage: scripts/test.sh [PRESET...]    # of ${known//$'\n'/ }"
}
presets=()
for argument in "$@"; do
  case $argument in
    -h | --help) usage; exit 0 ;;
    *)
      grep -qxF -e "$argument" <<<"$known" || {
        usage >&2
        echo "test: there is no preset $argument" >&2
        exit 64
      }
      presets+=("$argument")
      ;;
  esac
done
((${#presets[@]})) || presets=(release)

scripts/install_deps.sh --tests
for preset in "${presets[@]}"; do
  echo "test: configuring and building $preset" >&2
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  ctest --preset "$preset" -j "$(nproc)"
done
