#!/bin/bash
# In the guest, in a chroot: run.sh LOAD DIR SECONDS SEED
#
# Runs load/LOAD.sh in a directory of its own below DIR. A load loops while
# "more" says so, counts what it has verified with "count N", and exits with
# another status than 0 at the first wrong byte.
load=$1 dir=$2/$1
export SECONDS_LEFT=$3 SEED=$4
end=$(($(date +%s) + SECONDS_LEFT))
export PATH=/torture/bin:/usr/bin:/usr/sbin:/bin HOME=/tmp LC_ALL=C GIT_CONFIG_COUNT=1 \
	GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
more() { [ "$(date +%s)" -lt $end ]; }
count() { echo "ops $1"; }
mkdir -p "$dir" && cd "$dir" || exit 2
# shellcheck disable=SC1090
. "/torture/load/$load.sh"
