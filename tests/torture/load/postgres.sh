# pgbench; the sums that its transactions keep equal; the server's check of tables and indexes; page checksums
here=$PWD
bin=$(echo /usr/lib/postgresql/*/bin)
as() { chroot --userspec=999:999 / env PATH="$bin:$PATH" PGHOST="$here" PGUSER=postgres PGDATABASE=postgres PGDATA="$here/data" "$@"; }
chown 999:999 . || exit 1
as initdb --locale=C -A trust --no-sync --data-checksums >/dev/null || exit 1
cat >>data/postgresql.conf <<-END
	listen_addresses = ''
	unix_socket_directories = '$here'
	dynamic_shared_memory_type = mmap
	shared_buffers = 16MB
	max_wal_size = 64MB
END
as pg_ctl -w -t 120 -l "$here/log" start >/dev/null || { cat log >&2; exit 1; }
as pgbench -i -q -s 2 2>/dev/null || exit 1
while :; do
	as pgbench -n -T 8 -c 4 >out 2>err || { cat err >&2; exit 1; }
	[ "$(as psql -Atc "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
		and (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers)")" = t ] ||
		{ echo "postgres: the sums differ" >&2; exit 1; }
	as pg_amcheck --install-missing --heapallindexed >check 2>&1 || { cat check >&2; exit 1; }
	count "$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' out)"
	more || break
done
as pg_ctl -w -t 120 -m fast stop >/dev/null || exit 1
as pg_checksums --check >check 2>&1 || { cat check >&2; exit 1; }
