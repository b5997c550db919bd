# Transactions, then the database's own check of itself, also of a copy
sqlite3 db 'pragma journal_mode=wal; pragma mmap_size=67108864;
	create table t(id integer primary key, k text, v blob); create index i on t(k);' >/dev/null || exit 1
while more; do
	sqlite3 db "pragma mmap_size=67108864; begin;
		with recursive n(x) as (select 1 union all select x + 1 from n where x < 400)
		insert into t(k, v) select hex(randomblob(8)), randomblob(abs(random()) % 3000) from n;
		delete from t where id % 3 = abs(random()) % 3 and id < (select max(id) - 2000 from t);
		update t set v = randomblob(length(v)) where id % 7 = abs(random()) % 7; commit;" || exit 1
	[ "$(sqlite3 db 'pragma integrity_check')" = ok ] || { echo "sqlite: the database is damaged" >&2; exit 1; }
	rm -f copy
	sqlite3 db 'vacuum into "copy"' || exit 1
	[ "$(sqlite3 copy 'pragma integrity_check')" = ok ] || { echo "sqlite: the copy is damaged" >&2; exit 1; }
	a=$(sqlite3 db 'select count(*), sum(length(v)) from t') b=$(sqlite3 copy 'select count(*), sum(length(v)) from t')
	[ "$a" = "$b" ] || { echo "sqlite: $a is not $b" >&2; exit 1; }
	count 400
done
