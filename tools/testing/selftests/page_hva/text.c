// SPDX-License-Identifier: GPL-2.0
/*
 * A program that knows its own text: prints the sum of it, or compares it with
 * the one given as argument.  A page of zeros would not get that far.
 */
#include <stdio.h>
#include <stdlib.h>

extern const unsigned char __executable_start[], etext[];

int main(int argc, char **argv)
{
	const unsigned char *p;
	unsigned long sum = 5381;

	for (p = __executable_start; p < etext; p++)
		sum = sum * 33 + *p;
	if (argc > 1)
		return strtoul(argv[1], NULL, 16) != sum;
	printf("%lx\n", sum);
	return 0;
}
