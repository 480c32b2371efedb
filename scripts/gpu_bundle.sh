#!/usr/bin/env bash
# A folder to take to a machine with a GPU that has a driver and neither compiler nor
# packages: programs, the libraries they need, golden cases, gpu_check.sh, the peer.
#
#   scripts/gpu_bundle.sh [BUILD_DIR] [OUT_DIR]    # build/cuda, build/gpu_bundle
#   scripts/gpu_bundle.sh --no_test_data           # the repository's golden cases alone
#
# BUILD_DIR is configured (preset cuda) where it is not yet, and brought up to date. The
# C library and CUDA's own libraries stay out; what they must be is in bundle.txt. Golden
# cases of GOLDFINCH_TEST_DATA that the repository has not are taken where they fit.
# OUT_DIR is made anew, and OUT_DIR.tar.gz beside it. Exit codes: 0, 1 if something is
# wrong with the build or the bundle, 64 for wrong arguments.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."

limit_bytes=60000000
programs=(goldfinch goldfinch-server goldfinch-bench gpu_test)
# Sonames that the other machine has: the C library's, and CUDA's.
theirs='^(ld-linux.*|lib(c|m|pthread|dl|rt|resolv|util|anl)|lib(cuda|cudart|cublas|cublasLt|nvrtc|nvJitLink))\.so'

fail() {
  echo "gpu_bundle: $*" >&2
  exit 1
}
usage="usage: scripts/gpu_bundle.sh [--no_test_data] [BUILD_DIR] [OUT_DIR]"
test_data=${GOLDFINCH_TEST_DATA:-}
folders=()
for argument in "$@"; do
  case $argument in
    --no_test_data) test_data= ;;
    -h | --help) echo "$usage"; exit 0 ;;
    -*)
      echo "$usage" >&2
      exit 64
      ;;
    /*) folders+=("$argument") ;;
    *) folders+=("$caller/$argument") ;;
  esac
done
build=${folders[0]:-build/cuda}
out=${folders[1]:-build/gpu_bundle}
[[ ! -e $out || -f $out/bundle.txt ]] ||
  fail "$out is there and is no bundle: it would be deleted"

command -v patchelf >/dev/null || scripts/install_deps.sh --bundle
[[ -f $build/CMakeCache.txt ]] || cmake --preset cuda -B "$build" >&2
cmake --build "$build" --target "${programs[@]}" >&2

rm -rf "$out" "$out.tar.gz"
mkdir -p "$out"/{bin,lib,bench/peers,tests}
: >"$out/bundle.txt"  # whatever becomes of it, it may be deleted
for program in "${programs[@]}"; do
  strip -s -o "$out/bin/$program" "$build/bin/$program"
  # What it needs, what that needs, and so on, under the names they are asked for by.
  while read -r soname path; do
    [[ $soname =~ $theirs || -e $out/lib/$soname ]] && continue
    [[ -f $path ]] || fail "$program needs $soname, which is not found"
    cp -L "$path" "$out/lib/$soname"
    chmod u+w "$out/lib/$soname"
    strip --strip-unneeded "$out/lib/$soname"
    patchelf --set-rpath '$ORIGIN' "$out/lib/$soname"
  done < <(ldd "$build/bin/$program" | awk '$2 == "=>" { print $1, $3 }')
  patchelf --set-rpath '$ORIGIN/../lib' "$out/bin/$program"
done
mkdir "$out/tests/golden"
cp -r tests/golden/*/ "$out/tests/golden/"
cp bench/peers/*.{md,py,txt} "$out/bench/peers/"
cp scripts/gpu_check.sh "$out/"

size_of() { du -sb --apparent-size "$1" | cut -f1; }
for case in "${test_data:-/none}"/golden/*/; do
  name=$(basename "$case")
  [[ -f $case/expected.safetensors && ! -e $out/tests/golden/$name ]] || continue
  if (($(size_of "$out") + $(size_of "$case") > limit_bytes)); then
    echo "gpu_bundle: $case is left out: with it the bundle would be over $limit_bytes bytes" >&2
  else
    cp -r "$case" "$out/tests/golden/$name"
  fi
done

# Nothing is asked for that is neither here nor the other machine's.
outside=()
for file in "$out"/bin/* "$out"/lib/*; do
  while read -r soname; do
    [[ -e $out/lib/$soname ]] && continue
    [[ $soname =~ $theirs ]] || fail "$file needs $soname"
    outside+=("$soname")
  done < <(patchelf --print-needed "$file")
done
for program in "${programs[@]}"; do
  strays=$(env -i ldd "$out/bin/$program" | awk '$2 == "=>" { print $1, $3 }' |
    grep -vF " $(cd "$out" && pwd)/" | grep -vE "$theirs" || true)
  [[ -z $strays ]] || fail "$program would load ${strays//$'\n'/, }"
  env -i "$out/bin/$program" --help >/dev/null || fail "$program does not start"
done
no_cuda=$(env -i "$out/bin/goldfinch" verify tests/golden/finch \
  tests/golden/finch/expected.safetensors --backend=cuda 2>&1 || true)
[[ $no_cuda != *"no CUDA backend"* ]] || fail "$build was configured without CUDA"

glibc=$(readelf -W --version-info "$out"/bin/* "$out"/lib/* |
  grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -n 1)
cuda=$(sed -n 's/^set(CMAKE_CUDA_COMPILER_VERSION "\([0-9]*\.[0-9]*\).*/\1/p' \
  "$build"/CMakeFiles/*/CMakeCUDACompiler.cmake | tail -n 1)
cat >"$out/bundle.txt" <<EOF
commit: $(git describe --always --dirty 2>/dev/null || echo unknown)
machine: $(uname -m), at least ${glibc/_/ }, a driver for CUDA $cuda
cublas: libcublasLt.so.${cuda%%.*}
from outside: $(printf '%s\n' "${outside[@]}" | sort -u | tr '\n' ' ')
EOF

bytes=$(size_of "$out")
((bytes <= limit_bytes)) ||
  fail "$out has $bytes bytes; at most $limit_bytes may be. For one kind of GPU, configure" \
    "with -DCMAKE_CUDA_ARCHITECTURES=90-real"
tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")"
echo "gpu_bundle: $out has $bytes bytes, $out.tar.gz $(stat -c %s "$out.tar.gz"); there, run" \
  "./gpu_check.sh" >&2
