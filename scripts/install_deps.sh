#!/usr/bin/env bash
# Installs what the build needs on Debian 12, and nothing when it is all there. Asks
# apt once, for the missing packages only.
#
#   scripts/install_deps.sh            # to build and run
#   scripts/install_deps.sh --bundle   # to make a bundle for machines with a GPU as well
#   scripts/install_deps.sh --tests    # to run every test as well
#
# Exit code 64 for wrong arguments.
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache pkg-config git
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libabsl-dev prometheus-cpp-dev libcivetweb-dev zlib1g-dev libcurl4-openssl-dev
  libcli11-dev libgtest-dev libgmock-dev libbenchmark-dev
  libdnnl-dev nlohmann-json3-dev libspdlog-dev libxxhash-dev libssl-dev
  libhiredis-dev libboost-context-dev
  curl python3 python3-venv python3-numpy python3-yaml
)
# A server that tests start and stop themselves. Not for who only runs a model: its
# package starts one as a service.
usage="usage: scripts/install_deps.sh [--bundle | --tests]"
case $* in
  "") ;;
  --bundle) packages+=(patchelf) ;;
  --tests) packages+=(patchelf redis-server) ;;
  -h | --help) echo "$usage"; exit 0 ;;
  *)
    echo "$usage" >&2
    echo "install_deps: wrong arguments: $*" >&2
    exit 64
    ;;
esac

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || {
    echo "install_deps: missing packages: ${missing[*]}; run this as root, or install sudo" >&2
    exit 1
  }
  as_root=(sudo)
fi

echo "install_deps: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
