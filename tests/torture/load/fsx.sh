# Random operations against a model, several files at once
i=0
while [ $i -lt 3 ]; do
	i=$((i + 1))
	fsx "file$i" "$((SEED + i))" "$SECONDS_LEFT" &
	jobs="$jobs $!"
done
for job in $jobs; do
	wait "$job" || case $? in 1) wrong ;; *) exit 1 ;; esac
done
