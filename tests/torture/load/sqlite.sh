# Transactions, then the database's own check of itself, also of a copy
# A program that dies has found nothing
failed() {
	grep -qE 'malformed|corrupt|not a database|disk I/O' err && wrong "$1: $(cat err)"
	cat err >&2
	exit 1
}
intact() {
	is=$(sqlite3 "$1" 'pragma integrity_check' 2>err) || failed "$1"
	[ "$is" = ok ] || wrong "$1 is damaged: $is"
}
sums() { sqlite3 "$1" 'select count(*), sum(length(v)), sum(id), sum(instr(k, "7")) from t' 2>err || failed "$1"; }
sqlite3 db 'pragma journal_mode=wal; pragma mmap_size=67108864;
	create table if not exists t(id integer primary key, k text, v blob); create index if not exists i on t(k);' >/dev/null 2>err || failed db
while more; do
	sqlite3 db "pragma mmap_size=67108864; begin;
		with recursive n(x) as (select 1 union all select x + 1 from n where x < 400)
		insert into t(k, v) select hex(randomblob(8)), randomblob(abs(random()) % 3000) from n;
		delete from t where id % 3 = abs(random()) % 3 and id < (select max(id) - 2000 from t);
		update t set v = randomblob(length(v)) where id % 7 = abs(random()) % 7; commit;" >/dev/null 2>err || failed db
	intact db
	rm -f copy
	sqlite3 db 'vacuum into "copy"' 2>err || failed db
	intact copy
	a=$(sums db) || exit
	b=$(sums copy) || exit
	[ -n "$a" ] || exit 1
	[ "$a" = "$b" ] || wrong "$a is not $b"
	count 400
done
