# Many processes make, change, rename, link and remove the same files
churn files "$SEED" "$SECONDS_LEFT" || case $? in 1) wrong ;; *) exit 1 ;; esac
