/*
 * TCG plugin: what a guest with one CPU executes between two markers.
 *
 *   -plugin libcount.so,out=FILE
 *
 * Markers are no-operation instructions that nothing else contains: BRANCH ON
 * CONDITION with mask 0 and the displacement 0xb00 + n (operation n begins) or
 * 0xe00 (it ends).  Each pair gives one line of FILE:
 *
 *   n instructions essa0 essa1 ... essa7 iske sske rrbe ipte flush
 *
 * All but the first are instructions: ESSA by command, those for storage keys,
 * and those for TLBs: IPTE flushes a page, "flush" are the ones for which TCG
 * flushes a whole TLB (QEMU's own counter of full flushes, in "info jit", stays 0:
 * it waits for 16 MMU indexes to be in use at a time).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

#define MARK_BEGIN	0xb00
#define MARK_END	0xe00
#define NR_OPS		0x100
#define NO_OP		NR_OPS

struct counters {
	uint64_t instructions;
	uint64_t essa[8];
	uint64_t iske, sske, rrbe, ipte, flush;
};
#define NR_COUNTERS	(sizeof(struct counters) / sizeof(uint64_t))

static struct qemu_plugin_scoreboard *board;
static struct counters at_begin;
static uintptr_t running = NO_OP;
static FILE *out;

static void begin_operation(unsigned int cpu, void *op)
{
	struct counters *now = qemu_plugin_scoreboard_find(board, cpu);

	running = (uintptr_t)op;
	at_begin = *now;
}

static void end_operation(unsigned int cpu, void *unused)
{
	const uint64_t *now = qemu_plugin_scoreboard_find(board, cpu);
	const uint64_t *then = (const uint64_t *)&at_begin;

	if (running == NO_OP)
		return;
	fprintf(out, "%" PRIuPTR, running);
	for (size_t i = 0; i < NR_COUNTERS; i++)
		fprintf(out, " %" PRIu64, now[i] - then[i]);
	fputc('\n', out);
	running = NO_OP;
}

static void count(struct qemu_plugin_insn *insn, size_t offset)
{
	qemu_plugin_u64 counter = { board, offset };

	qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
		insn, QEMU_PLUGIN_INLINE_ADD_U64, counter, 1);
}

static const struct {
	unsigned int opcode;
	size_t counter;
} counted[] = {
#define COUNTER(name)	offsetof(struct counters, name)
	{ 0xb229, COUNTER(iske) },
	{ 0xb22b, COUNTER(sske) },
	{ 0xb22b, COUNTER(flush) },
	{ 0xb22a, COUNTER(rrbe) },
	{ 0xb22a, COUNTER(flush) },
	{ 0xb221, COUNTER(ipte) },
	{ 0xb98e, COUNTER(flush) },	/* IDTE */
	{ 0xb98f, COUNTER(flush) },	/* CRDTE */
	{ 0xb20d, COUNTER(flush) },	/* PTLB */
	{ 0xb250, COUNTER(flush) },	/* CSP */
	{ 0xb98a, COUNTER(flush) },	/* CSPG */
};

static void look_at_instruction(struct qemu_plugin_insn *insn)
{
	uint8_t code[6] = {};
	unsigned int opcode, mark;

	qemu_plugin_insn_data(insn, code, sizeof(code));
	count(insn, offsetof(struct counters, instructions));
	opcode = code[0] << 8 | code[1];
	if (opcode == 0xb9ab)
		count(insn, offsetof(struct counters, essa[code[2] >> 4 & 7]));
	/* LCTL, LCTLG */
	if (code[0] == 0xb7 || (code[0] == 0xeb && code[5] == 0x2f))
		count(insn, COUNTER(flush));
	for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++)
		if (opcode == counted[i].opcode)
			count(insn, counted[i].counter);
	if (code[0] != 0x47 || code[1] != 0)
		return;
	mark = code[2] << 8 | code[3];
	if (mark >= MARK_BEGIN && mark < MARK_BEGIN + NR_OPS)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, begin_operation,
			QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)(mark - MARK_BEGIN));
	else if (mark == MARK_END)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, end_operation,
			QEMU_PLUGIN_CB_NO_REGS, NULL);
}

static void look_at_block(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++)
		look_at_instruction(qemu_plugin_tb_get_insn(tb, i));
}

static void close_file(qemu_plugin_id_t id, void *unused)
{
	fclose(out);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
					   int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "count: needs out=FILE\n");
		return -1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror(argv[0] + 4);
		return -1;
	}
	board = qemu_plugin_scoreboard_new(sizeof(struct counters));
	qemu_plugin_register_vcpu_tb_trans_cb(id, look_at_block);
	qemu_plugin_register_atexit_cb(id, close_file, NULL);
	return 0;
}
