#!/usr/bin/env bash
# From a bare Debian 12 machine to text: installs what is missing, builds, starts the
# server on the demo model, streams one completion through the client, and stops.
#
#   scripts/quickstart.sh            # one completion, then stop
#   scripts/quickstart.sh --serve    # leave the server running until Ctrl-C
#   scripts/quickstart.sh --model=DIR --prompt=TEXT
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."

host=127.0.0.1
port=50051
metrics_port=9464
model=models/demo
prompt="Once upon a time there was a little girl who"
serve=false

usage() {
  echo "usage: scripts/quickstart.sh [--serve] [--model=DIR] [--prompt=TEXT]" \
       "[--port=N] [--metrics_port=N]"
}
fail() {
  echo "quickstart: $*" >&2
  exit 1
}
for argument in "$@"; do
  case $argument in
    --serve) serve=true ;;
    --model=/*) model=${argument#*=} ;;
    --model=*) model=$caller/${argument#*=} ;;
    --prompt=*) prompt=${argument#*=} ;;
    --port=*) port=${argument#*=} ;;
    --metrics_port=*) metrics_port=${argument#*=} ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown argument $argument" ;;
  esac
done
[[ -f $model/model.safetensors ]] || fail "no model in $model"

# Before anything is built: somebody else's server would otherwise answer below.
for busy in "$port" "$metrics_port"; do
  if (exec 3<>"/dev/tcp/$host/$busy") 2>/dev/null; then
    fail "port $busy on $host is in use; stop what listens there, or give another" \
         "with --port=N and --metrics_port=N"
  fi
done

scripts/install_deps.sh
echo "quickstart: building (the first time takes a few minutes)" >&2
cmake --preset release >build-quickstart.log 2>&1 &&
  cmake --build --preset release --target goldfinch-server goldfinch \
    >>build-quickstart.log 2>&1 || {
  tail -n 40 build-quickstart.log >&2
  fail "the build failed; build-quickstart.log has it all"
}
rm -f build-quickstart.log
bin=build/release/bin

# Its log goes to the same terminal, and a line of it would end up in the completion.
log_level=warning
if $serve; then log_level=info; fi
"$bin/goldfinch-server" --model="$model" --listen="$host:$port" \
  --metrics="$host:$metrics_port" --log_level="$log_level" &
server=$!
health=
stop() {
  kill -TERM "$server" ${health:+"$health"} 2>/dev/null || true
  wait "$server" 2>/dev/null || true
}
trap stop EXIT

# As long as it takes to load the model: a server that ends is noticed below.
"$bin/goldfinch" health --server="$host:$port" --wait=86400 >/dev/null &
health=$!
wait -n "$server" "$health" || fail "the server did not start; its message is above"
kill -0 "$server" 2>/dev/null || fail "the server ended; its message is above"
health=

echo >&2
echo "quickstart: $model is served at $host:$port; metrics at" \
     "http://$host:$metrics_port/metrics" >&2
echo "quickstart: the prompt is: $prompt" >&2
echo >&2
printf '%s' "$prompt"
"$bin/goldfinch" generate --server="$host:$port" --prompt="$prompt" \
  --max_tokens=160 --temperature=0.7 --top_p=0.9 --seed=3
echo >&2
cat >&2 <<EOF
quickstart: call it again with

  $bin/goldfinch generate --server=$host:$port --prompt="It was a dark night" --max_tokens=100

EOF
if $serve; then
  echo "quickstart: serving until Ctrl-C" >&2
  trap 'stop; exit 0' INT TERM
  wait "$server"
else
  echo "quickstart: start the server with" >&2
  echo >&2
  echo "  scripts/quickstart.sh --serve" >&2
fi
