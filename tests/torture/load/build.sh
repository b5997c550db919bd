# The same compiler, the same source, the same object: twice, by programs that are dropped all the time
cp -a /torture/source . || exit 1
cd source || exit 1
while more; do
	for round in first second; do
		rm -rf ../$round && mkdir ../$round
		ls ./*.c | xargs -P 2 -I@ sh -c 'gcc -O2 -w -c @ -o ../'$round'/$(basename @).o' || exit 1
	done
	for object in ../first/*; do
		cmp -s "$object" "../second/${object##*/}" || { echo "build: $object differs" >&2; exit 1; }
		count 1
	done
done
