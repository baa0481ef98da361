# Sourced by the guest-* scripts and example; bash. Each works in a directory of its own, names
# what it checks, and ends at the first thing that is wrong.
# shellcheck shell=bash disable=SC2034,SC2154
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pinhole=${PINHOLE:-$root/.build/release/pinhole}
work=$(mktemp -d "${TMPDIR:-/tmp}/pinhole-test.XXXXXX")
cd "$work"
processes=()
server='' guest='' viewer=''

finish() {
  local status=${1:-$?} process
  { # where the shell tells of each process that was killed
    for process in "${processes[@]}"; do kill -KILL "$process" || true; done
    wait || true
  } 2>/dev/null
  if [ "$status" != 0 ]; then
    for log in "$work"/*.log; do
      [ ! -s "$log" ] || { echo "-- ${log##*/}"; tail -n 25 "$log"; }
    done
    if [ -n "${KEEP:-}" ]; then echo "-- left in $work"; return; fi
  fi
  cd /
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# documented WORDS: the command line of docs/watch.md's table that begins with them.
documented() {
  sed -nE 's/^\|.*\| `([^`]+)` \|$/\1/p' "$root/docs/watch.md" | grep -m 1 -e "^$1" ||
    { echo "docs/watch.md has no command line '$1'" >&2; return 1; }
}

ok() { echo "ok: $*"; }
fail() { echo "WRONG: $*"; exit 1; }

# is WHAT WANTED GOT
is() { [ "$2" = "$3" ] || fail "$1: wanted '$2', got '$3'"; ok "$1"; }

# holds WHAT COMMAND…
holds() {
  local what=$1
  shift
  "$@" || fail "$what"
  ok "$what"
}

# wait_for SECONDS WHAT COMMAND…: until it succeeds; a slow command has twenty tries at least, and a
# slow machine four times as long.
wait_for() {
  local tries=20 end=$((SECONDS + 4 * $1)) what=$2
  shift 2
  until "$@"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || [ "$SECONDS" -lt "$end" ] || fail "waited in vain for $what"
    sleep 0.05
  done
}
has() { grep -qs -e "$1" "$2"; }
counted() { # NUMBER PATTERN FILE
  local lines
  lines=$(grep -cs -e "$2" "$3") || true
  [ "${lines:-0}" -ge "$1" ]
}
gone() { ! kill -0 "$1" 2>/dev/null; }

# equal A.png B.png
equal() { [ -s "$1" ] && [ -s "$2" ] && [ "$(compare -metric AE "$1" "$2" null: 2>&1)" = 0 ]; }
# same WHAT A.png B.png
same() {
  equal "$2" "$3" && { ok "$1"; return; }
  fail "$1: $2 and $3 differ in $(compare -metric AE "$2" "$3" null: 2>&1) pixels"
}

# start_pinhole ARGUMENT…: on gpu.sock and frames.sock; sets server.
start_pinhole() {
  local served
  served=$(grep -cs 'serves on' pinhole.log || true)
  "$pinhole" serve --socket-path gpu.sock --frames-socket frames.sock "$@" 2>>pinhole.log &
  server=$!
  processes+=("$server")
  wait_for 10 "pinhole" counted $((${served:-0} + 1)) 'serves on' pinhole.log
}

# start_guest ARGUMENT…: on Pinhole, until its picture is up; sets guest.
start_guest() {
  rm -f console.log
  "$root/vm/guest" --socket gpu.sock --size "${size:-640x480}" --mem 256M --shell shell.sock \
    --qmp qmp.sock --serial console.log "$@" 2>>qemu.log &
  guest=$!
  processes+=("$guest")
  wait_for 60 "the guest's picture" has 'picture up' console.log
}

# start_reference ARGUMENT…: the same guest on QEMU's own virtio-gpu.
start_reference() {
  rm -f reference-console.log
  "$root/vm/guest" --size "${size:-640x480}" --mem 256M --shell reference.sock \
    --qmp reference-qmp.sock --serial reference-console.log "$@" 2>>reference-qemu.log &
  reference=$!
  processes+=("$reference")
}
reference_up() { wait_for 60 "the reference guest's picture" has 'picture up' reference-console.log; }

qemu() { "$root/vm/qmp" qmp.sock "$@"; }
shot() { qemu screendump "$1" >/dev/null || fail "screendump"; }
inside() { "$root/vm/guest-shell" shell.sock "$@" >shell.log || fail "the guest's '$*': $(cat shell.log)"; }
quit_guest() {
  qemu quit >/dev/null
  wait "$guest" || true
}

# consumer FILE.png: what a consumer that connects now receives first.
consumer() {
  rm -rf once
  "$pinhole" view --frames-socket frames.sock --once --png once >once.log || fail "pinhole view"
  mv once/*.png "$1"
}

# start_viewer ARGUMENT…: a consumer that stays; events.txt and frames/.
start_viewer() {
  "$pinhole" view --frames-socket frames.sock --png frames "$@" >events.txt 2>viewer.log &
  viewer=$!
  processes+=("$viewer")
  wait_for 10 "the consumer's connection" has '^connected' events.txt
}
newest() { echo "frames/output0-$(sed -n 's/^frame 0 serial \([0-9]*\) .*/\1/p' events.txt | tail -n 1).png"; }
# received WHAT A.png: the attached consumer comes to show this picture.
newest_is() { equal "$(newest)" "$1"; }
received() {
  wait_for 10 "$1 (the newest frame is $(newest))" newest_is "$2"
  ok "$1"
}

# drawn FILE.png STEP…: what paint should have drawn.
drawn() {
  local file=$1
  shift
  "$root/scripts/pixels" "${size:-640x480}" "$file" "$@"
}

# Without memory of copies and of cursors' images, which is kept for the next picture.
descriptors() {
  find "/proc/$server/fd" -mindepth 1 -printf '%l\n' |
    grep -vcE '^/memfd:pinhole-(copy|cursor)'
}

# leaves_none WHAT NUMBER: pinhole has as many descriptors as before.
as_few() { [ "$(descriptors)" -le "$1" ]; }
leaves_none() {
  wait_for 5 "$1: no more than $2 descriptors" as_few "$2"
  ok "$1: no descriptor left over"
}
