# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables are for those who source this
# What the scripts beside this file share. Sourced, not run.

# A failure inside $(…) is a failure.
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit

# Everything that can be made again and should outlive `cargo clean`.
cache=${KATA_CACHE:-$root/.cache}
target=${CARGO_TARGET_DIR:-$root/target}
architecture=$(uname -m)
guest_target=$architecture-unknown-linux-gnu

if [[ -t 2 ]]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi

say() { printf '%s==> %s%s\n' "$bold" "$*" "$plain" >&2; }
note() { printf '    %s\n' "$*" >&2; }
die() { printf '\nerror: %s\n' "$*" >&2; exit 1; }

# step NAME COMMAND...: runs it under a header, and says how long it took.
step() {
    local name=$1 began=$SECONDS status=0
    shift
    say "$name"
    "$@" || status=$?
    if ((status)); then
        note "failed after $((SECONDS - began)) s: $*"
    else
        note "$((SECONDS - began)) s"
    fi
    return "$status"
}
