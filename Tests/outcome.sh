# Sourced by Tests/run and Tests/sanitize; bash. What a run of Swift Testing came to, from its output.
# shellcheck shell=bash

# The tests that were running when a run ended.
unfinished() {
  awk '{ test = $0; sub(/^[^ ]+ Test /, "", test) }
    /^◇ Test (run|case) / { next }
    /^◇ Test .* started\.$/ { sub(/ started\.$/, "", test); open[test] = 1 }
    sub(/( with [0-9]+ test cases?)? (passed|failed) after .*/, "", test) { delete open[test] }
    END { for (test in open) print "      not ended: " test }' "$1" | head -n 20
}

# Whether a run came to its end, whatever was found.
ended() { grep -qE '^. Test run with .* after' "$1"; }

# The names of the tests that failed in a run; of a run that died, what had not ended.
failures() {
  sed -nE 's/^✘ Test (.*) failed after .*/\1/p' "$1" |
    sed -E '/^run with [0-9]/d; s/ with [0-9]+ test cases?$//' | sort -u
  ended "$1" || unfinished "$1" | sed 's/^ *not ended: //'
}

# passed_once FIRST STATUS FILE: whether a second run, with that status, came to its end and no test of
# FIRST, which failures told of another run, failed again; other failures must explain the status.
passed_once() {
  local again
  ended "$3" || return 1
  again=$(failures "$3")
  [ "$2" = 0 ] || [ -n "$again" ] || return 1
  [ -z "$(comm -12 <(sort -u <<<"$1") <(echo "$again") | grep .)" ]
}
