# Memory that is freed lazily or swapped, against a model
freed "$SEED" "$SECONDS_LEFT" || case $? in 1) wrong ;; *) exit 1 ;; esac
