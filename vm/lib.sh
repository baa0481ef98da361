# Sourced by the scripts in this directory; bash.
# shellcheck shell=bash disable=SC2034

vm_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
vm_name=vm/$(basename "$0")
vm_cache=${PINHOLE_CACHE:-$(dirname "$vm_dir")/.cache}/vm

say() { printf '%s: %s\n' "$vm_name" "$*" >&2; }
die() { say "$*"; exit 125; }

need_tools() {
  local tool absent=
  for tool in "$@"; do
    command -v "$tool" >/dev/null || absent="$absent $tool"
  done
  [ -z "$absent" ] || die "missing:$absent; run vm/deps"
}

# Kernel tools live in sbin, which is not on everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin

static_busybox() {
  local box
  for box in /bin/busybox /usr/bin/busybox; do
    [ -x "$box" ] && { echo "$box"; return; }
  done
  die "no busybox; run vm/deps"
}

# Sets kernel_dir, with vmlinux and modules/ in it; 7 ms when they are there.
find_kernel() {
  kernel_dir=$("$vm_dir/fetch-kernel") || exit 125
}

# pack_initramfs ROOT FILE: everything below ROOT, owned by root, as newc cpio.
pack_initramfs() {
  (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z \
    | cpio --quiet --null -o -H newc -R 0:0) >"$2.tmp" && mv "$2.tmp" "$2"
}

# program_of_guest NAME ROOT: a program of this machine, with its libraries, for a guest.
program_of_guest() {
  local program library
  program=$(PATH=$PATH:/sbin:/usr/sbin command -v "$1") || die "there is no $1; run vm/deps"
  mkdir -p "$2/bin"
  cp -L "$program" "$2/bin/"
  ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$2$(dirname "$library")"
    cp -L "$library" "$2$library"
  done
}

# progress WHAT FOLDER COMMAND…: on a terminal, how much is in the folder while the command runs.
progress() {
  local what=$1 folder=$2 running
  shift 2
  [ -t 2 ] || { "$@"; return; }
  "$@" &
  running=$!
  while kill -0 "$running" 2>/dev/null; do
    printf '\r%s: %s: %s MB\033[K' "$vm_name" "$what" "$(du -sm "$folder" 2>/dev/null | cut -f1)" >&2
    sleep 0.3
  done
  printf '\r\033[K' >&2
  wait "$running"
}

# A single-quoted word for a POSIX shell.
quote() {
  printf "'%s'" "${1//\'/\'\\\'\'}"
}

# 64-bit LLVM refuses to compile for TCG's "max"; TSX and PCID are not emulated.
tcg_cpu=Haswell,-hle,-rtm,-pcid,-tsc-deadline,-invpcid,-x2apic

# Sets accel_args: KVM where a guest really boots with it, otherwise TCG.
# A /dev/kvm that exists, and opens, may still not run anything (nested hosts).
choose_accel() {
  local choice=${PINHOLE_ACCEL:-}
  [ -n "$choice" ] || choice=$(probed_accel)
  case $choice in
    kvm) accel_args=(-accel kvm -cpu "${PINHOLE_CPU:-host}") ;;
    tcg) accel_args=(-accel "tcg,thread=multi" -cpu "${PINHOLE_CPU:-$tcg_cpu}") ;;
    *) die "PINHOLE_ACCEL is '$choice'; it must be kvm or tcg" ;;
  esac
}

probed_accel() {
  local stamp boot result=tcg
  if [ ! -c /dev/kvm ] || ! { : <>/dev/kvm; } 2>/dev/null; then
    echo tcg
    return
  fi
  boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)
  stamp=$vm_cache/accel-$boot-$(id -u)
  if [ -s "$stamp" ]; then
    cat "$stamp"
    return
  fi
  if PINHOLE_ACCEL=kvm "$vm_dir/run" -t 10 -- true >/dev/null 2>&1; then
    result=kvm
  fi
  rm -f "$vm_cache"/accel-*
  echo "$result" | tee "$stamp"
}
