#!/bin/bash
# In the guest, in a chroot: run.sh LOAD DIR SECONDS SEED
#
# Runs load/LOAD.sh in a directory of its own below DIR. A load loops while
# "more" says so, counts what it has verified with "count N", and says "wrong"
# at the first wrong byte. It may find what it has left when it was stopped
# somewhere (kexec), and goes on with it if it can.
load=$1 dir=$2/$1 begun=
export SECONDS_LEFT=$3 SEED=$4
set -o pipefail
end=$(($(date +%s) + SECONDS_LEFT))
export PATH=/torture/bin:/usr/bin:/usr/sbin:/bin HOME=/tmp LC_ALL=C GIT_CONFIG_COUNT=1 \
	GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
# Too little time for large rounds
short() { [ "$SECONDS_LEFT" -lt 120 ]; }
# Once at least
more() { [ -z "$begun" ] || [ "$(date +%s)" -lt $end ] || return 1; begun=yes; }
count() { echo "ops $1"; }
wrong() { echo "$load: $*" >&2; exit 3; }
# For those who want to know what takes so long
trap 'echo "took $(($(date +%s) - end + SECONDS_LEFT))"' EXIT
mkdir -p "$dir" && cd "$dir" || exit 2
# shellcheck disable=SC1090
. "/torture/load/$load.sh"
