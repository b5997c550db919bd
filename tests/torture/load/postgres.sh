# pgbench; the sums that its transactions keep equal; the server's check of tables and indexes; page checksums
here=$PWD
bin=$(echo /usr/lib/postgresql/*/bin)
as() { chroot --userspec=999:999 / env PATH="$bin:$PATH" PGHOST="$here" PGUSER=postgres PGDATABASE=postgres PGDATA="$here/data" "$@"; }
failed() {
	grep -qiE 'page verification|invalid page|corrupt|checksum' "$1" log && wrong "$(tail -n 5 "$1" log)"
	cat "$1" >&2
	exit 1
}
make() {
	rm -rf data
	as initdb --locale=C -A trust --no-sync --data-checksums >/dev/null || exit 1
	cat >>data/postgresql.conf <<-END
		listen_addresses = ''
		unix_socket_directories = '$here'
		dynamic_shared_memory_type = mmap
		shared_buffers = 16MB
		max_wal_size = 64MB
	END
}
chown 999:999 . || exit 1
rm -f log data/postmaster.pid .s.PGSQL.*
[ -e ready ] || make
as pg_ctl -w -t 300 -l "$here/log" start >/dev/null || failed log
scale=2
short && scale=1
[ -e ready ] || { as pgbench -i -q -s $scale 2>err && touch ready; } || failed err
while more; do
	as pgbench -n -T 8 -c 4 >out 2>err || failed err
	[ "$(as psql -Atc "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
		and (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers)" 2>err)" = t ] ||
		{ [ -s err ] && failed err; wrong "the sums differ"; }
	as pg_amcheck --install-missing --heapallindexed >check 2>&1 || failed check
	count "$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' out)"
done
as pg_ctl -w -t 300 -m fast stop >/dev/null || exit 1
as pg_checksums --check >check 2>&1 || wrong "$(cat check)"
