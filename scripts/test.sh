#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#
#   scripts/test.sh               # the release preset
#   scripts/test.sh asan tsan     # these presets instead, one after another
#
# GOLDFINCH_TEST_DATA names a folder with data/rwkv_vocab_v20230424.txt and data/books:
# tests that need them are skipped, saying so, without it. GOLDFINCH_LONG_TESTS=1 runs
# the long modes too.
set -euo pipefail
cd "$(dirname "$0")/.."

presets=("$@")
((${#presets[@]})) || presets=(release)

scripts/install_deps.sh --tests
for preset in "${presets[@]}"; do
  echo "test: configuring and building $preset" >&2
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  ctest --preset "$preset" -j "$(nproc)"
done
