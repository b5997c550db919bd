# Whole programs, compiled, linked and run, by a compiler that is dropped all the time: the same objects each time, and what
# the programs say is what the host's say.  What was compiled before the kexec stays.
compile() {
	gcc -O1 -w -Iinclude -Iconf -c "$1" -o new.o || exit 1
	if [ -e "$1.first" ]; then
		cmp -s new.o "$1.first" || wrong "$1: the objects differ"
		count 1
	else
		cp new.o first.new && mv first.new "$1.first" || exit 1
	fi
	mv new.o "$1.o"
}
# build NAME SOURCE...
build() {
	local name=$1 objects=()
	shift
	for source; do
		[ -e "$source.o" ] || compile "$source"
		objects+=("$source.o")
		[ "$source" = "${!#}" ] || more || exit 0
	done
	gcc -o "$name.new" "${objects[@]}" || exit 1
	mv "$name.new" "$name"
}
same() { cmp -s "$1" "want/$1" || wrong "$1 is not what the host's program gives"; count 1; }
[ -d source ] || { rm -rf new && cp -a /torture/source new && mv new source; } || exit 1
cd source || exit 1
while more; do
	build unifdef.bin unifdef.c
	: >unifdef.out
	for file in /torture/tree/mm/[a-h]*.c; do
		./unifdef.bin -DCONFIG_PAGE_HVA -UCONFIG_SMP -DCONFIG_NUMA "$file" >>unifdef.out
		[ $? -le 1 ] || exit 1
	done
	same unifdef.out
	rm -f unifdef.c.o
	more || break
	build conf.bin conf/*.c
	rm -f .config
	srctree=kconfig ./conf.bin --allyesconfig Kconfig >conf.err 2>&1 || { cat conf.err >&2; exit 1; }
	# It says which program has made it
	grep -v '^#$' .config >conf.out
	same conf.out
	rm -f conf/*.o
done
