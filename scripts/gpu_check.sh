#!/usr/bin/env bash
# Everything there is to find out on a machine with a GPU, in one report: tests on the
# device, the same under compute-sanitizer, golden cases, speed, and the peer's.
#
#   ./gpu_check.sh                        # in a bundle (scripts/gpu_bundle.sh)
#   scripts/gpu_check.sh                  # in a checkout, of build/cuda or build/release
#   scripts/gpu_check.sh --backend=cpu --shapes=3x64    # the script itself, without a GPU
#   scripts/gpu_check.sh --steps=tests,verify           # some of it
#   scripts/gpu_check.sh --steps=bench --shapes=24x2048 --case_seconds=3   # in minutes
#
# What takes long and says least comes last: the sanitizer. cuBLASLt is looked for where the
# loader does not look, too.
#
# Writes report.md, log.txt (all output) and figures.jsonl into --out, after each command:
# a run that is cut off leaves what it had. Exit codes: 0 all is well, 1 something failed,
# 2 there is no GPU this build can use, 64 wrong arguments.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here
[[ -d $root/bin ]] || root=$(dirname "$here")

backend=cuda
device=0
bin=
golden=$root/tests/golden
out=gpu_check
steps=tests,verify,bench,sessions,peer,sanitizer
shapes=12x768,24x2048
cases='^prefill/t:(1024|2048|8192|32768|131072)$|^decode/batch:(1|16|64|256)$|^decode/ctx:(1024|32768)/batch:(1|16)$|^wkv/|^attend/'
case_seconds=20
sessions=4000
step_seconds=600
python=python3

usage() {
  echo "usage: gpu_check.sh [--backend=cuda|cpu] [--device=N] [--bin=DIR] [--golden=DIR]" \
    "[--out=DIR] [--steps=tests,verify,bench,sessions,peer,sanitizer]" \
    "[--shapes=12x768,24x2048] [--cases=REGEX] [--case_seconds=N] [--sessions=N] [--step_seconds=N] [--python=PROGRAM]"
}
wrong() {
  usage >&2
  echo "gpu_check: $*" >&2
  exit 64
}
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    --backend=cuda | --backend=cpu) backend=$value ;;
    --device=*) device=$value ;;
    --bin=*) bin=$value ;;
    --golden=*) golden=$value ;;
    --out=*) out=$value ;;
    --steps=*) steps=$value ;;
    --shapes=*) shapes=$value ;;
    --cases=*) cases=$value ;;
    --case_seconds=*) case_seconds=$value ;;
    --sessions=*) sessions=$value ;;
    --step_seconds=*) step_seconds=$value ;;
    --python=*) python=$value ;;
    -h | --help) usage; exit 0 ;;
    *) wrong "unknown argument $argument" ;;
  esac
done
for step in ${steps//,/ }; do
  [[ ,tests,sanitizer,verify,bench,sessions,peer, == *,$step,* ]] || wrong "there is no step $step"
done
[[ $device =~ ^[0-9]+$ ]] || wrong "--device is $device; it must be a number"
if [[ -z $bin ]]; then
  for bin in "$root/bin" "$root/build/cuda/bin" "$root/build/release/bin"; do
    [[ -x $bin/goldfinch ]] && break
  done
fi
[[ -x $bin/goldfinch ]] || wrong "no goldfinch in $bin: build it, or say where with --bin=DIR"
golden_cases=()
for case in "$golden"/*/expected.safetensors; do
  [[ -f $case ]] && golden_cases+=("$(dirname "$case")")
done
((${#golden_cases[@]})) || wrong "no golden case in $golden"
export GOLDFINCH_GOLDEN=$root/tests/golden  # which the tests know by name

# The programs' number of a device is among those that are visible; nvidia-smi and the
# tests, which take the first one, need its number on the bus.
alone=()
torch_device=$backend
gpu_id=$device
if [[ $backend == cuda ]]; then
  export CUDA_DEVICE_ORDER=PCI_BUS_ID
  IFS=, read -ra visible <<<"${CUDA_VISIBLE_DEVICES:-}"
  gpu_id=${visible[device]:-$device}
  alone=(env "CUDA_VISIBLE_DEVICES=$gpu_id")
  torch_device=cuda:$device
fi

# The major version of the CUDA that the programs were built with, which is that of the
# cuBLASLt they ask for: from the bundle, or from the build they are in.
cuda_major() {
  local major
  if [[ -f $root/bundle.txt ]]; then
    major=$(sed -n 's/^cublas: libcublasLt\.so\.\([0-9]*\)$/\1/p' "$root/bundle.txt")
  else
    major=$(sed -n 's/^set(CMAKE_CUDA_COMPILER_VERSION "\([0-9]*\)\..*/\1/p' \
      "$bin"/../CMakeFiles/*/CMakeCUDACompiler.cmake 2>/dev/null | tail -n 1)
  fi
  echo "${major:-13}"
}

# Where cuBLASLt is, for which the programs ask the loader alone: there, beside a toolkit,
# or in the packages of Python. Before what the loader knows already, the driver included.
find_cublas() {
  local major name folder
  major=$(cuda_major)
  name=libcublasLt.so.$major
  [[ $(ldconfig -p 2>/dev/null) == *"$name"* ]] && { echo "$name"; return; }
  for folder in ${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH//:/ }} /usr/local/cuda*/lib64 \
    $("$python" -c 'import site, sys
print(*(f"{p}/nvidia/{d}/lib" for p in [*site.getsitepackages(), site.getusersitepackages()]
        for d in ("cu" + sys.argv[1], "cublas")))' "$major" 2>/dev/null); do
    [[ -e $folder/$name ]] && { echo "$folder/$name"; return; }
  done
}
cublas=
if [[ $backend == cuda ]]; then
  cublas=$(find_cublas)
  [[ $cublas == */* ]] && export LD_LIBRARY_PATH=${cublas%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

  # The program itself says whether there is a device for it.
  said=$(timeout "$step_seconds" "$bin/goldfinch" verify "${golden_cases[0]}" \
    "${golden_cases[0]}/expected.safetensors" --backend=cuda --device="$device" 2>&1)
  case $said in
    *"no CUDA"* | *"this machine has CUDA devices"* | *"is needed"*)
      echo "gpu_check: ${said##*goldfinch verify: }" >&2
      exit 2
      ;;
  esac
fi

mkdir -p "$out" || exit 64
log=$out/log.txt
figures=$out/figures.jsonl
commands=$(mktemp) verified=$(mktemp) measured=$(mktemp) failures=$(mktemp)
memory=$(mktemp) stderr=$(mktemp)
trap 'rm -f "$commands" "$verified" "$measured" "$failures" "$memory" "$stderr"' EXIT
: >"$log"
: >"$figures"
num_run=0
num_failed=0
result="not finished"

query_gpu() {
  [[ $backend == cuda ]] && nvidia-smi -i "$gpu_id" --query-gpu="$1" \
    --format=csv,noheader,nounits 2>/dev/null
}

# The whole report, from what is known so far.
write_report() {
  {
    echo "# GPU check: $result"
    echo
    machine_table
    echo
    echo "## Commands"
    echo
    echo "| command | exit | seconds | result |"
    echo "|---|---|---|---|"
    cat "$commands"
    if [[ -s $verified ]]; then
      printf '\n## Golden cases\n\n'
      echo "| case | dtype | tokens a step | sequences | max_abs_error | greedy | exit |"
      echo "|---|---|---|---|---|---|---|"
      cat "$verified"
    fi
    cat "$measured" "$failures"
  } >"$out/report.md.part"
  mv "$out/report.md.part" "$out/report.md"
}

machine_table() {
  echo "| what | |"
  echo "|---|---|"
  echo "| backend | $backend |"
  if [[ $backend == cuda ]]; then
    echo "| device | $gpu |"
    echo "| compute capability | $(query_gpu compute_cap) |"
    echo "| driver | $(query_gpu driver_version) |"
    echo "| clocks at the start, SM and memory, MHz | $clocks_before |"
    echo "| clocks now | $(query_gpu clocks.sm,clocks.mem,temperature.gpu) °C |"
    echo "| highest clocks | $(query_gpu clocks.max.sm,clocks.max.mem) |"
    echo "| power limit, W | $(query_gpu power.limit) |"
    echo "| memory, MiB | $(query_gpu memory.total) |"
    echo "| cuBLASLt | ${cublas:-not found} |"
  fi
  echo "| processor | $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) threads |"
  echo "| system | $(uname -sr) |"
  echo "| build | $(build_name) |"
  echo "| began | $began |"
  echo "| written | $(date -u +%FT%TZ) |"
}

build_name() {
  if [[ -f $root/bundle.txt ]]; then
    sed -n 's/^commit: //p' "$root/bundle.txt"
  else
    git -C "$root" describe --always --dirty 2>/dev/null || echo unknown
  fi
}

# run COMMAND...: with its output in the log and in $output, its exit code in $code. One
# that hangs is ended. Says nothing about whether that is good.
run() {
  local start=$SECONDS
  num_run=$((num_run + 1))
  output=$(timeout -k 10 "$step_seconds" "$@" 2>"$stderr")
  code=$?
  took=$((SECONDS - start))
  errors=$(<"$stderr")
  printf '$ %s\n%s\n%s\nexit %d after %d s\n\n' "$*" "$output" "$errors" "$code" "$took" >>"$log"
}

# row RESULT COMMAND...: a row of the table of commands.
row() {
  local said=$1
  shift
  echo "| \`${*//|/\\|}\` | $code | $took | $said |" >>"$commands"
  echo "gpu_check: $*: $said" >&2
  write_report
}

# note RESULT COMMAND...: a row for what ran last, where an empty RESULT is a failure.
note() {
  local said=$1
  shift
  if [[ -z $said ]]; then
    said=FAILED
    ((code == 124 || code == 137)) && said="FAILED: ended after $step_seconds s"
    fail_with "$*"
  fi
  row "$said" "$*"
}

# Counts a failure of what ran last. The last words of the first ten go into the report.
fail_with() {
  num_failed=$((num_failed + 1))
  ((num_failed <= 10)) || return 0
  {
    printf '\n## Failed: `%s`\n\n```\n' "$*"
    printf '%s\n%s\n' "$output" "$errors" | grep -v '^$' | tail -n 30
    printf '```\n'
  } >>"$failures"
}

# skip WHAT WHY: a row for what could not be run here, which is no failure.
skip() {
  code=- took=-
  row "$2" "$1"
}

# note_figures OK COMMAND...: a row for what ran last and measures, where no figure is a
# failure, unless the program left its cases out and said why: what fits no memory, say.
note_figures() {
  local ok=$1 why
  shift
  why=$(sed -n 's/^.*: \(skipped: .*\)/\1/p' <<<"$errors" | tail -n 1)
  if ((code == 0)) && [[ -z $output && -n $why ]]; then
    skip "$*" "$why"
  else
    note "$( ((code == 0)) && [[ -n $output ]] && echo "$ok")" "$@"
  fi
}

# The tests of the device; of the CPU, a few that take no time.
if [[ $backend == cuda ]]; then
  golden_threads=()
  op_tests='*/cuda_t1*:*/cuda_small_t1*'
  all_tests="$op_tests:*_cuda_f32:*_cuda_bf16:*OnACudaDevice*"
  # Without those that repeat one kernel very often, or try one function, as the search for
  # races has it (tests/engine/kernels/CMakeLists.txt): what they could show the others show.
  sanitized_op_tests="$op_tests:-*AnyNumberOfRows*:*RowsStandAlone*:*RowsKeepTheirBits*:*FunctionsTest*:*FullVocabularies*"
  small_forward='*LogitsOfEveryPromptPosition*/goldfinch_cuda_bf16'
else
  golden_threads=(--threads=1)  # what is so small is slower on more
  op_tests='*Norm*/plain_t1'
  all_tests="$op_tests:*Wkv*/plain_t1:*/goldfinch_plain_f32"
  small_forward='*/goldfinch_plain_f32'
fi

# What the tests said, or nothing where one failed, none ran, or one was left out.
test_result() {
  local passed skipped
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' <<<"$output")
  skipped=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*/\1/p' <<<"$output")
  if ((code == 0 && ${passed:-0} > 0 && ${skipped:-0} == 0)); then
    echo "$passed passed"
  fi
}

tests() {
  run "${alone[@]}" "$bin/gpu_test" --gtest_filter="$all_tests" --gtest_brief=1
  note "$(test_result)" gpu_test "--gtest_filter=$all_tests"
}

# Whether the sanitizer said more than its name, or a test has failed.
found_something() {
  printf '%s\n%s\n' "$output" "$errors" | grep -v '^========= COMPUTE-SANITIZER' | grep -Eq '^=========|FAILED'
}

sanitizer() {
  local tool sanitizer filter
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [[ $backend == cpu ]]; then
    skip compute-sanitizer "not available: it needs a GPU"
    return
  elif [[ ! -x $sanitizer ]]; then
    skip compute-sanitizer "not available"
    return
  fi
  for tool in memcheck racecheck; do
    for filter in "$sanitized_op_tests" "$small_forward"; do
      run "${alone[@]}" "$sanitizer" --tool "$tool" --error-exitcode 99 \
        "$bin/gpu_test" --gtest_filter="$filter" --gtest_brief=1
      # It sums up whatever it found; where it may not attach, it does not get there.
      if ((code != 124 && code != 137)) && [[ $output$errors != *SUMMARY* ]]; then
        skip "compute-sanitizer --tool $tool" "not permitted: $(tail -n 1 <<<"$output$errors")"
        break
      fi
      set -- compute-sanitizer --tool "$tool" gpu_test "--gtest_filter=$filter"
      # The tool makes a program slower by one or two orders: that it takes long is no
      # failure, as long as it had found nothing.
      if ((code == 124 || code == 137)) && ! found_something; then
        row "not finished in $step_seconds s, with nothing found" "$@"
      else
        note "$(test_result)" "$@"
      fi
    done
  done
}

# Every case in both types, whole and in pieces, alone and among others. One row of the
# table of commands for all of them.
verify() {
  local case dtype cut chunk batch start=$SECONDS failed_before=$num_failed worst=0 all
  for case in "${golden_cases[@]}"; do
    for dtype in f32 bf16; do
      for cut in all:1 1:1 7:1 64:1 16:5; do
        chunk=${cut%:*} batch=${cut#*:}
        set -- "--backend=$backend" "--compute_dtype=$dtype" "--batch=$batch"
        [[ $chunk == all ]] || set -- "$@" "--chunk=$chunk"
        run "$bin/goldfinch" verify "$case" "$case/expected.safetensors" "$@" \
          --device="$device" "${golden_threads[@]}"
        ((code == 0)) || {
          worst=$code
          fail_with goldfinch verify "$(basename "$case")" "$@"
        }
        echo "| $(basename "$case") | $dtype | $chunk | $batch |" \
          "$(sed -n 's/^max_abs_error \([^ ]*\).*/\1/p' <<<"$output") |" \
          "$(sed -n 's/^greedy_agreement //p' <<<"$output") | $code |" >>"$verified"
      done
    done
  done
  code=$worst took=$((SECONDS - start)) all=$(wc -l <"$verified")
  if ((num_failed > failed_before)); then
    row "FAILED: $((num_failed - failed_before)) of $all" goldfinch verify "--backend=$backend"
  else
    row "$all of $all within tolerance" goldfinch verify "--backend=$backend"
  fi
}

# threads_of SHAPE: of the CPU where that computes, the same for goldfinch-bench and for the
# peer: all there are, but one where the model is as narrow as those of the golden cases.
threads_of() {
  [[ $backend == cpu ]] || return 0
  if [[ $1 =~ x0*([0-9]{1,3})$ ]] && ((BASH_REMATCH[1] < 512)); then
    echo 1
  else
    nproc
  fi
}

# Notes the most device memory in use, in MiB, until it is killed.
watch_memory() {
  local most=0 used
  while used=$(query_gpu memory.used) && [[ $used =~ ^[0-9]+$ ]]; do
    ((used > most)) && echo $((most = used)) >"$memory"
    sleep 0.3
  done
}

# bench SHAPE FLAGS...: with the most memory that was in use meanwhile.
bench() {
  local shape=$1 allowed watcher threads
  shift
  threads=$(threads_of "$shape")
  : >"$memory"
  watch_memory &
  watcher=$!
  allowed=$(query_gpu memory.total | grep -x '[0-9]*')  # MiB; a tenth is left
  run "$bin/goldfinch-bench" --shape="$shape" --backend="$backend" --device="$device" \
    "$@" --case_seconds="$case_seconds" --json ${threads:+--threads="$threads"} \
    ${allowed:+--memory_bytes=$((allowed * 9 * (1 << 20) / 10))}
  kill "$watcher" 2>/dev/null
  wait "$watcher" 2>/dev/null
  add_figures goldfinch "$shape"
  local most numerics
  most=$(<"$memory")
  numerics=$(sed -n 's/^numerics id: //p' <<<"$errors" | sort -u | paste -sd' ')
  note_figures "ok${most:+, at most $most MiB of the device in use}${numerics:+, $numerics}" \
    goldfinch-bench "--shape=$shape" "--backend=$backend" "$@"
}

peer() {
  local shape=$1 threads
  threads=$(threads_of "$shape")
  run "$python" "$root/bench/peers/torch_reference.py" --shape="$shape" --device="$torch_device" \
    --case_seconds="$case_seconds" --json ${threads:+--threads="$threads"}
  add_figures torch "$shape"
  note_figures ok torch_reference.py "--shape=$shape" "--device=$backend"
}

# Why there is no peer, or nothing where there is one.
no_peer() {
  command -v "$python" >/dev/null || { echo "not available: no $python"; return; }
  "$python" -c 'import torch, safetensors' 2>/dev/null || {
    echo "not available: $python has no torch with safetensors"
    return
  }
  [[ $backend == cpu ]] || "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    echo "not available: this torch sees no GPU"
}

# The JSON lines of $output, with who measured and of which shape.
add_figures() {
  sed -n "s/^{/{\"program\": \"$1\", \"shape\": \"$2\", /p" <<<"$output" >>"$figures"
}

# One shape's figures, ours beside the peer's where a case has the same name.
figures_table() {
  local shape=$1 threads
  threads=$(threads_of "$shape")
  printf '\n## Speed, %s, random bf16 weights%s\n\n' "$shape" "${threads:+, --threads=$threads}"
  echo "| case | goldfinch | unit | of the limit | PyTorch | PyTorch's memory, MB | goldfinch / PyTorch |"
  echo "|---|---|---|---|---|---|---|"
  awk -v shape="$shape" '
    function get(key,    at) {
      if (!match($0, "\"" key "\": *(\"[^\"]*\"|[^,}]*)")) return ""
      at = substr($0, RSTART, RLENGTH)
      sub("^\"" key "\": *", "", at)
      gsub("\"", "", at)
      return at
    }
    function number(x) { return x == "" ? "-" : sprintf(x + 0 < 100 ? "%.1f" : "%.0f", x) }
    get("shape") == shape {
      name = get("name")
      if (!(name in seen)) order[++count] = name
      seen[name] = 1
      unit[name] = get("unit")
      if (get("program") == "torch") {
        peer[name] = get("measured")
        bytes[name] = get("peak_bytes") / 1e6
      } else {
        ours[name] = get("measured")
        ratio[name] = get("ratio")
        limit[name] = get("limit")
      }
    }
    END {
      for (i = 1; i <= count; ++i) {
        name = order[i]
        known = name in ours
        both = known && peer[name] > 0
        printf "| %s | %s | %s | %s | %s | %s | %s |\n", name, number(ours[name]), unit[name],
               (known && limit[name] + 0 > 0) ? sprintf("%.2f", ratio[name]) : "-",
               number(peer[name]), number(bytes[name]),
               both ? sprintf("%.2f", ours[name] / peer[name]) : "-"
      }
    }' "$figures"
}

began=$(date -u +%FT%TZ)
gpu=$(query_gpu name || true)
gpu=${gpu:-"number $device, of which nvidia-smi says nothing"}
clocks_before=$(query_gpu clocks.sm,clocks.mem)
write_report
wants() { [[ ,$steps, == *,$1,* ]]; }
wants tests && tests
wants verify && verify
why_no_peer=
if wants peer; then
  why_no_peer=$(no_peer)
  if [[ -n $why_no_peer ]]; then
    skip torch_reference.py "$why_no_peer"
  else
    run "$python" "$root/bench/peers/torch_reference.py" --verify="$golden" --device="$torch_device" \
      "${golden_threads[@]}"
    note "$( ((code == 0)) && echo "golden cases within tolerance")" torch_reference.py "--verify=$golden"
  fi
fi
for shape in ${shapes//,/ }; do
  wants bench && bench "$shape" "--cases=$cases"
  # What queueing a step behind the one that runs gains.
  wants bench && [[ $backend == cuda ]] && bench "$shape" '--cases=^decode/batch:' --run_ahead=off
  wants sessions && bench "$shape" "--cases=^resident/" "--sessions=$sessions"
  wants peer && [[ -z $why_no_peer ]] && peer "$shape"
  grep -q "\"shape\": \"$shape\"" "$figures" && figures_table "$shape" >>"$measured"
done
wants sanitizer && sanitizer
if ((num_failed)); then
  result="FAILED, $num_failed of $num_run"
else
  result="passed, $num_run commands"
fi
write_report
echo "gpu_check: $result; $out/report.md" >&2
((num_failed == 0))
