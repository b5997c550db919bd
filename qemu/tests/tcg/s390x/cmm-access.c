/*
 * Test what happens when an instruction accesses a block that was discarded:
 * the discard fault, that it is nullifying, and that the instruction gives the
 * right result when it is executed again.
 *
 * Each instruction is executed with all of its operands in stable blocks, for
 * reference, and then with each block it accesses discarded; without DAT and
 * with DAT. To be run with discard=eager. With discard=demand nothing is
 * discarded, and nearly all of this must fail.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

/*
 * Four blocks: the operand under test (%r2) is in the second, or crosses into
 * the third; other operands (%r4) are in the first. The fourth is beyond.
 */
static unsigned char arena[4 * BLOCK] __attribute__((aligned(4096)));
#define AUX (arena)
#define T1 (arena + BLOCK)
#define T2 (arena + 2 * BLOCK)

/* A mirror of the arena, where the test cannot fault */
static unsigned char snapshot[4 * BLOCK] __attribute__((aligned(4096)));
static unsigned char reference[4 * BLOCK] __attribute__((aligned(4096)));

#define CROSS 1         /* also with the operand in two blocks */
#define PARTIAL 2       /* interruptible: may do a part, and go on */
#define STORES_FIRST 4  /* may store a part of the result: TCG does */
#define NO_ACCESS 8     /* does not access the content: no fault */
#define VARIES 16       /* the result is different each time */
#define IFETCH 32       /* the operand is the instruction */
#define CONTENT 64      /* the operand has the given content */
#define ZEROS 128       /* the operand starts with 256 zeros */
#define AUX_ZEROS 256   /* so does the one in the first block */
#define ONLY_DAT 512

struct test {
    const char *name;
    const char *insn;
    int flags;
    unsigned int offset;        /* of the operand in its block */
    unsigned int cross;         /* how much of it is in the first block */
    uint64_t regs[14];          /* but %r2 */
    const char *content, *content_end;
};

/* Loads */
INSN(lg, "lg %r5,0(%r2)");
INSN(l, "l %r5,0(%r2)");
INSN(lh, "lh %r5,0(%r2)");
INSN(ic, "ic %r5,0(%r2)");
INSN(icm, "icm %r5,15,0(%r2)");
INSN(icm_base, "icm %r2,7,0(%r2)");
INSN(icmy_base, "icmy %r2,14,0(%r2)");
INSN(icmh_base, "icmh %r2,13,0(%r2)");
INSN(lrvg, "lrvg %r5,0(%r2)");
INSN(lmg, "lmg %r5,%r11,0(%r2)");
INSN(lm, "lm %r5,%r11,0(%r2)");
INSN(lpq, "lpq %r6,0(%r2)");
INSN(lam, "lam %a2,%a9,0(%r2)");
INSN(lmh, "lmh %r5,%r11,0(%r2)");
INSN(cg, "cg %r5,0(%r2)");
INSN(ag, "ag %r5,0(%r2)");
INSN(mvi, "mvi 0(%r2),42");
INSN(tm, "tm 0(%r2),42");
INSN(cli, "cli 0(%r2),42");
INSN(vl, "vl %v19,0(%r2)");
INSN(vlm, "vlm %v19,%v26,0(%r2)");
INSN(vll, "vll %v19,%r5,0(%r2)");
INSN(vlrep, "vlrepg %v19,0(%r2)");
INSN(ld, "ld %f3,0(%r2)");
INSN(cvb, "cvb %r5,0(%r2)");
INSN(cksm, "1: cksm %r6,%r8; jo 1b");
INSN(lura, "lurag %r5,%r2");
INSN(ecag_pfd, "pfd 1,0(%r2)");
/* Stores */
INSN(stg, "stg %r5,0(%r2)");
INSN(st, "st %r5,0(%r2)");
INSN(sth, "sth %r5,0(%r2)");
INSN(stc, "stc %r5,0(%r2)");
INSN(stcm, "stcm %r5,15,0(%r2)");
INSN(strvg, "strvg %r5,0(%r2)");
INSN(stcm3, "stcm %r5,14,0(%r2)");
INSN(stcm2, "stcm %r5,10,0(%r2)");
INSN(stcmh, "stcmh %r5,13,0(%r2)");
INSN(stmg, "stmg %r5,%r11,0(%r2)");
INSN(stmg_all, "stmg %r0,%r15,0(%r2)");
INSN(stmg_wrap, "stmg %r14,%r3,0(%r2)");
INSN(stmh, "stmh %r5,%r11,0(%r2)");
INSN(stm, "stm %r5,%r11,0(%r2)");
INSN(stpq, "stpq %r6,0(%r2)");
INSN(stam, "stam %a2,%a9,0(%r2)");
INSN(stctg, "stctg %c2,%c9,0(%r2)");
INSN(stctl, "stctl %c2,%c9,0(%r2)");
INSN(vst, "vst %v19,0(%r2)");
INSN(vstl, "vstl %v19,%r5,0(%r2)");
INSN(vstm, "vstm %v19,%v26,0(%r2)");
INSN(vsteg, "vsteg %v19,0(%r2),1");
INSN(std, "std %f3,0(%r2)");
INSN(stfpc, "stfpc 0(%r2)");
INSN(mvhi, "mvhi 0(%r2),42");
INSN(cvd, "cvd %r5,0(%r2)");
INSN(stckf, "stckf 0(%r2)");
INSN(stcke, "stcke 0(%r2)");
INSN(stpt, "stpt 0(%r2)");
INSN(stckc, "stckc 0(%r2)");
INSN(stap, "stap 0(%r2)");
INSN(stidp, "stidp 0(%r2)");
INSN(stpx, "stpx 0(%r2)");
INSN(stfle, "stfle 0(%r2)");
INSN(stnsm, "stnsm 0(%r2),255");
INSN(stura, "sturg %r5,%r2");
INSN(tb, ".insn rre,0xb22c0000,%r0,%r2");
INSN(stsi, "stsi 0(%r2)");
/* Read-modify-write */
INSN(ni, "ni 0(%r2),0xf0");
INSN(oi, "oi 0(%r2),0x0f");
INSN(xi, "xi 0(%r2),0xff");
INSN(asi, "asi 0(%r2),1");
INSN(agsi, "agsi 0(%r2),1");
INSN(cs, "cs %r5,%r6,0(%r2)");
INSN(csg, "csg %r5,%r6,0(%r2)");
INSN(cdsg, "cdsg %r6,%r8,0(%r2)");
INSN(cds, "cds %r6,%r8,0(%r2)");
INSN(laalg, "laalg %r5,%r6,0(%r2)");
INSN(lax, "lax %r5,%r6,0(%r2)");
INSN(alsi, "alsi 0(%r2),1");
INSN(cas_fail, "csg %r7,%r6,0(%r2)");
INSN(laag, "laag %r5,%r6,0(%r2)");
INSN(lan, "lan %r5,%r6,0(%r2)");
INSN(ts, "ts 0(%r2)");
INSN(csst, "csst 0(%r4),0(%r2),%r6");
INSN(csst_third, "csst 0(%r2),0(%r4),%r6");
/* Storage to storage, with the operand under test as either operand */
INSN(mvc_dst, "mvc 0(100,%r2),0(%r4)");
INSN(mvc_src, "mvc 0(100,%r4),0(%r2)");
INSN(mvcin_src, "mvcin 0(16,%r4),15(%r2)");
INSN(mvcin_dst, "mvcin 0(16,%r2),15(%r4)");
INSN(mvn, "mvn 0(100,%r2),0(%r4)");
INSN(mvz, "mvz 0(100,%r4),0(%r2)");
INSN(mvo, "mvo 0(10,%r2),0(8,%r4)");
INSN(clc, "clc 0(100,%r2),0(%r2)");
INSN(xc, "xc 0(100,%r2),0(%r4)");
INSN(xc_same, "xc 0(100,%r2),0(%r2)");
INSN(nc, "nc 0(100,%r2),0(%r4)");
INSN(mvc_long, "mvc 0(256,%r2),0(%r4)");
INSN(mvc_overlap, "mvc 1(100,%r2),0(%r2)");
INSN(mvc_overlap2, "mvc 0(100,%r2),1(%r2)");
INSN(mvz_dst, "mvz 0(100,%r2),0(%r4)");
INSN(mvn_src, "mvn 0(100,%r4),0(%r2)");
INSN(mvo_src, "mvo 0(10,%r4),0(8,%r2)");
INSN(nc_src, "nc 0(100,%r4),0(%r2)");
INSN(oc, "oc 0(100,%r2),0(%r4)");
INSN(mvcl_dst, "mvcl %r6,%r8");
INSN(mvcle_src, "1: mvcle %r6,%r8,0; jo 1b");
INSN(clcl, "clcl %r6,%r8");
INSN(clcle, "1: clcle %r6,%r8,0; jo 1b");
INSN(mvst_src, "1: mvst %r4,%r2; jo 1b");
INSN(mvst_dst, "1: mvst %r2,%r4; jo 1b");
INSN(mvcle_dst, "1: mvcle %r6,%r8,0; jo 1b");
INSN(mvclu_dst, "1: mvclu %r6,%r8,0; jo 1b");
INSN(clclu, "1: clclu %r6,%r8,0; jo 1b");
INSN(clst, "1: clst %r2,%r6; jo 1b");
INSN(srst, "1: srst %r6,%r2; jo 1b");
INSN(mvpg_src, "mvpg %r4,%r2");
INSN(mvpg_dst, "mvpg %r2,%r4");
INSN(mvcos_src, "mvcos 0(%r4),0(%r2),%r5");
INSN(mvcos_dst, "mvcos 0(%r2),0(%r4),%r5");
INSN(mvcp, "mvcp 0(%r5,%r2),0(%r4),%r1");
INSN(mvcp_src, "mvcp 0(%r5,%r4),0(%r2),%r1");
INSN(mvcs, "mvcs 0(%r5,%r2),0(%r4),%r1");
INSN(mvcs_src, "mvcs 0(%r5,%r4),0(%r2),%r1");
INSN(tr_self, "tr 0(100,%r2),0(%r2)");
INSN(tr_array, "tr 0(100,%r2),0(%r4)");
INSN(tr_table, "tr 0(100,%r4),0(%r2)");
INSN(trt_array, "trt 0(100,%r2),0(%r4)");
INSN(trt_table, "trt 0(100,%r4),0(%r2)");
INSN(trtr, "trtr 99(100,%r2),0(%r4)");
INSN(tre_array, "1: tre %r2,%r4; jo 1b");
INSN(tre_table, "1: tre %r4,%r2; jo 1b");
INSN(troo, "1: troo %r2,%r4,1; jo 1b");
INSN(trot, "1: trot %r2,%r4,1; jo 1b");
INSN(trto, "1: trto %r2,%r4,1; jo 1b");
INSN(trtt, "1: trtt %r2,%r4,1; jo 1b");
INSN(troo_self, "1: troo %r2,%r8,1; jo 1b");
INSN(trtt_self, "1: trtt %r2,%r8,1; jo 1b");
INSN(pack_dst, "pack 0(8,%r2),0(15,%r4)");
INSN(pack_src, "pack 0(8,%r4),0(15,%r2)");
INSN(pack_self, "pack 0(15,%r2),0(15,%r2)");
INSN(unpk_dst, "unpk 0(15,%r2),0(8,%r4)");
INSN(unpk_src, "unpk 0(15,%r4),0(8,%r2)");
INSN(unpk_self, "unpk 0(15,%r2),0(15,%r2)");
INSN(pka_dst, "pka 0(%r2),0(20,%r4)");
INSN(pka_src, "pka 0(%r4),0(20,%r2)");
INSN(unpka_dst, "unpka 0(20,%r2),0(%r4)");
INSN(unpka_src, "unpka 0(20,%r4),0(%r2)");
INSN(unpku_dst, "unpku 0(20,%r2),0(%r4)");
INSN(unpku_src, "unpku 0(20,%r4),0(%r2)");
INSN(tp, "tp 0(10,%r2)");
INSN(cu12, "1: cuutf %r6,%r8; jo 1b");
INSN(cu41_self, "1: cu41 %r6,%r8; jo 1b");
INSN(cu42_self, "1: cu42 %r6,%r8; jo 1b");
INSN(kimd, ".insn rre,0xb93e0000,%r0,%r8");
/* Control */
INSN(lpswe, "lpswe 0(%r2)");
INSN(ssm, "ssm 0(%r2)");
INSN(lctl, "lctl %c2,%c5,0(%r2)");
INSN(lctlg5, "lctlg %c2,%c5,0(%r2)");
INSN(stosm, "stosm 0(%r2),0");
INSN(lctlg, "lctlg %c2,%c3,0(%r2)");
INSN(sckc, "sckc 0(%r2)");
INSN(spt, "spt 0(%r2)");
INSN(stsch, "stsch 0(%r2)");
INSN(msch, "msch 0(%r2)");
INSN(stcrw, "stcrw 0(%r2)");
INSN(tpi, "tpi 0(%r2)");
/* Execute and instruction fetch */
INSN(target, "lghi %r5,77");
INSN(target6, "lgfi %r5,77777");
INSN(target2, "lgr %r5,%r6");
INSN(ex, "ex %r0,0(%r2)");
INSN(ex_operand, "ex %r0,0(%r7)");
/* No access */
INSN(lra, "lra %r5,0(%r2)");
INSN(tprot, "tprot 0(%r2),0");
INSN(iske, "iske %r5,%r2");
INSN(sske, "sske %r5,%r2");
INSN(rrbe, "rrbe %r0,%r2");
INSN(ivsk, ".insn rre,0xb2230000,%r5,%r2");

/* Characters for TRTT, and in UTF-32 */
static const char trtt_chars[] = "\0\1\0\3\0\5\0\7\0\11\0\13\0\15\0\17";
static const char utf32[] = "\0\0\0a\0\0\40\254\0\1\366\0\0\0\0b\0\0\0\344";

#define R(n, value) [n] = (uint64_t)(value)
#define A (AUX + 0x200)
#define T(name, ...) { #name, insn_##name, __VA_ARGS__ }

static const struct test tests[] = {
    T(lg, CROSS, 0x100, 4),
    T(l, CROSS, 0x100, 2),
    T(lh, CROSS, 0x100, 1),
    T(ic, 0, 0xfff),
    T(icm, CROSS, 0x100, 2),
    T(icm_base, CROSS, 0x100, 1),
    T(icmy_base, CROSS, 0x100, 2),
    T(icmh_base, CROSS, 0x100, 1),
    T(lrvg, CROSS, 0x100, 4),
    T(lmg, CROSS, 0x100, 24),
    T(lm, CROSS, 0x100, 8),
    T(lpq, 0, 0x100),
    T(lam, CROSS, 0x100, 8),
    T(lmh, CROSS, 0x100, 8),
    T(cg, CROSS, 0x100, 4),
    T(ag, CROSS, 0x100, 4),
    T(mvi, 0, 0),
    T(tm, 0, 0),
    T(cli, 0, 0),
    T(vl, CROSS, 0x100, 4),
    T(vlm, CROSS, 0x100, 24),
    T(vll, CROSS, 0x100, 4, { R(5, 13) }),
    T(vlrep, CROSS, 0x100, 4),
    T(ld, CROSS, 0x100, 4),
    T(cvb, CROSS | CONTENT, 0x100, 4, {}, "\0\0\0\0\0\1\2\x3c", NULL),
    T(cksm, CROSS | PARTIAL, 0x100, 8,
      { R(6, 0), R(8, 0), R(9, 64) }),
    T(lura, 0, 0x100),
    T(ecag_pfd, NO_ACCESS, 0x100),

    T(stg, CROSS, 0x100, 4, { R(5, -1) }),
    T(st, CROSS, 0x100, 2, { R(5, -1) }),
    T(sth, CROSS, 0x100, 1, { R(5, -1) }),
    T(stc, 0, 0x100, 0, { R(5, -1) }),
    T(stcm, CROSS, 0x100, 2, { R(5, -1) }),
    T(stcm3, CROSS, 0x100, 1, { R(5, -1) }),
    T(stcm2, CROSS, 0x100, 1, { R(5, -1) }),
    T(stcmh, CROSS, 0x100, 2, { R(5, -1) }),
    T(strvg, CROSS, 0x100, 4, { R(5, -2) }),
    T(stmg, CROSS, 0x100, 24),
    T(stmg_all, CROSS, 0x100, 120),
    T(stmg_wrap, CROSS, 0x100, 8),
    T(stm, CROSS, 0x100, 8),
    T(stmh, CROSS, 0x100, 4),
    T(stpq, 0, 0x100),
    T(stam, CROSS, 0x100, 8),
    T(stctg, CROSS, 0x100, 24),
    T(stctl, CROSS, 0x100, 12),
    T(vst, CROSS, 0x100, 4),
    T(vstl, CROSS, 0x100, 4, { R(5, 13) }),
    T(vstm, CROSS, 0x100, 24),
    T(vsteg, CROSS, 0x100, 4),
    T(std, CROSS, 0x100, 4),
    T(stfpc, CROSS, 0x100, 2),
    T(mvhi, CROSS, 0x100, 2),
    T(cvd, CROSS, 0x100, 4, { R(5, 4711) }),
    T(stckf, CROSS | VARIES, 0x100, 4),
    T(stcke, CROSS | VARIES, 0x100, 4),
    T(stpt, VARIES, 0x100),
    T(stckc, 0, 0x100),
    T(stap, 0, 0x100),
    T(stidp, 0, 0x100),
    T(stpx, 0, 0x100),
    T(stfle, CROSS, 0x100, 8, { R(0, 1) }),
    T(stnsm, 0, 0x100),
    T(stura, 0, 0x100, 0, { R(5, -1) }),
    T(tb, 0, 0),
    T(stsi, 0, 0, 0, { R(0, 0x10000001), R(1, 1) }),

    T(ni, 0, 0),
    T(oi, 0, 0),
    T(xi, 0, 0),
    T(asi, CROSS, 0x100, 2),
    T(agsi, CROSS, 0x100, 4),
    T(cs, 0, 0x100),
    T(csg, 0, 0x100),
    T(cdsg, 0, 0x100),
    T(cds, 0, 0x100),
    T(laalg, 0, 0x100, 0, { R(6, 1) }),
    T(lax, 0, 0x100, 0, { R(6, 0xff) }),
    T(alsi, CROSS, 0x100, 2),
    T(cas_fail, 0, 0x100, 0, { R(7, 99) }),
    T(laag, 0, 0x100, 0, { R(6, 1) }),
    T(lan, 0, 0x100, 0, { R(6, 0xff) }),
    T(ts, 0, 0x100),
    T(csst, 0, 0x100, 0, { R(0, 0), R(1, A + 64), R(4, A) }),
    T(csst_third, 0, 0x100, 0, { R(0, 0), R(1, A + 64), R(4, A) }),

    T(mvc_dst, CROSS, 0x100, 8, { R(4, A) }),
    T(mvc_src, CROSS, 0x100, 8, { R(4, A) }),
    T(mvcin_src, CROSS, 0x100, 8, { R(4, A) }),
    T(mvcin_dst, CROSS, 0x100, 8, { R(4, A) }),
    T(mvn, CROSS, 0x100, 8, { R(4, A) }),
    T(mvz, CROSS, 0x100, 8, { R(4, A) }),
    T(mvo, CROSS, 0x100, 4, { R(4, A) }),
    T(clc, CROSS, 0x100, 8, { R(4, A) }),
    T(xc, CROSS, 0x100, 8, { R(4, A) }),
    T(xc_same, CROSS, 0x100, 8, { R(4, A) }),
    T(nc, CROSS, 0x100, 8, { R(4, A) }),
    T(mvc_long, CROSS, 0x100, 8, { R(4, A) }),
    T(mvc_overlap, CROSS, 0x100, 8),
    T(mvc_overlap2, CROSS, 0x100, 8),
    T(mvz_dst, CROSS, 0x100, 8, { R(4, A) }),
    T(mvn_src, CROSS, 0x100, 8, { R(4, A) }),
    T(mvo_src, CROSS, 0x100, 4, { R(4, A) }),
    T(nc_src, CROSS, 0x100, 8, { R(4, A) }),
    T(oc, CROSS, 0x100, 8, { R(4, A) }),
    T(mvcl_dst, CROSS | PARTIAL, 0x100, 8,
      { R(6, 0), R(7, 0x300), R(8, A), R(9, 0x300) }),
    T(mvcle_src, CROSS | PARTIAL, 0x100, 8,
      { R(6, A), R(7, 0x300), R(8, 0), R(9, 0x300) }),
    T(mvcle_dst, CROSS | PARTIAL, 0x100, 8,
      { R(6, 0), R(7, 0x300), R(8, A), R(9, 0x300) }),
    T(mvclu_dst, CROSS | PARTIAL, 0x100, 8,
      { R(6, 0), R(7, 0x300), R(8, A), R(9, 0x300) }),
    T(clclu, CROSS | PARTIAL, 0x100, 8,
      { R(6, 0), R(7, 0x300), R(8, 0), R(9, 0x300) }),
    T(clcl, CROSS | PARTIAL, 0x100, 8,
      { R(6, 0), R(7, 0x300), R(8, 0), R(9, 0x300) }),
    T(clcle, CROSS | PARTIAL, 0x100, 8,
      { R(6, 0), R(7, 0x300), R(8, 0), R(9, 0x300) }),
    T(mvst_src, CROSS | PARTIAL | CONTENT, 0x100, 8, { R(0, 0), R(4, A) },
      "a string that ends", NULL),
    T(mvst_dst, CROSS | PARTIAL, 0x100, 8, { R(0, 0x80), R(4, A) }),
    T(clst, CROSS | PARTIAL | CONTENT, 0x100, 8, { R(0, 0), R(6, 0) },
      "a string that ends", NULL),
    T(srst, CROSS | PARTIAL | CONTENT, 0x100, 8, { R(0, 0), R(6, 0) },
      "a string that ends", NULL),
    T(mvpg_src, 0, 0, 0, { R(0, 0), R(4, AUX) }),
    T(mvpg_dst, 0, 0, 0, { R(0, 0), R(4, AUX) }),
    { "mvpg_src_cco", insn_mvpg_src, 0, 0, 0, { R(0, 0x100), R(4, AUX) } },
    { "mvpg_dst_cco", insn_mvpg_dst, 0, 0, 0, { R(0, 0x100), R(4, AUX) } },
    T(mvcos_src, CROSS | ONLY_DAT, 0x100, 8, { R(0, 0), R(4, A), R(5, 64) }),
    T(mvcos_dst, CROSS | ONLY_DAT, 0x100, 8, { R(0, 0), R(4, A), R(5, 64) }),
    T(mvcp, CROSS | ONLY_DAT, 0x100, 8, { R(1, 0), R(4, A), R(5, 64) }),
    T(mvcp_src, CROSS | ONLY_DAT, 0x100, 8, { R(1, 0), R(4, A), R(5, 64) }),
    T(mvcs, CROSS | ONLY_DAT, 0x100, 8, { R(1, 0), R(4, A), R(5, 64) }),
    T(mvcs_src, CROSS | ONLY_DAT, 0x100, 8, { R(1, 0), R(4, A), R(5, 64) }),
    T(tr_self, CROSS, 0x100, 8),
    T(tr_array, CROSS, 0x100, 8, { R(4, A) }),
    T(tr_table, CROSS, 0x100, 128, { R(4, A) }),
    T(trt_array, CROSS | AUX_ZEROS, 0x100, 8, { R(4, A) }),
    T(trt_table, CROSS | ZEROS, 0x100, 128, { R(4, A) }),
    T(trtr, CROSS | AUX_ZEROS, 0x100, 8, { R(4, A) }),
    T(tre_array, CROSS | PARTIAL, 0x100, 8, { R(0, 0), R(3, 100), R(4, A) }),
    T(tre_table, CROSS | PARTIAL, 0x100, 128,
      { R(0, 0), R(4, A), R(5, 100) }),
    T(troo, CROSS | PARTIAL, 0x100, 8,
      { R(0, 0), R(1, A + 256), R(3, 100), R(4, A) }),
    T(trot, CROSS | PARTIAL, 0x100, 8,
      { R(0, 0), R(1, A + 256), R(3, 100), R(4, A) }),
    T(trto, CROSS | PARTIAL, 0x100, 8,
      { R(0, 0), R(1, A + 256), R(3, 100), R(4, A) }),
    T(trtt, CROSS | PARTIAL, 0x100, 8,
      { R(0, 0), R(1, A + 256), R(3, 100), R(4, A) }),
    T(troo_self, CROSS | PARTIAL | STORES_FIRST, 0x100, 8,
      { R(0, 0), R(1, A + 256), R(3, 100), R(9, 1) }),
    T(trtt_self, CROSS | PARTIAL | STORES_FIRST | CONTENT, 0x100, 8,
      { R(0, 0), R(1, A + 256), R(3, 16), R(9, 1) },
      trtt_chars, trtt_chars + 16),
    T(pack_dst, CROSS, 0x100, 4, { R(4, A) }),
    T(pack_src, CROSS, 0x100, 4, { R(4, A) }),
    T(pack_self, CROSS, 0x100, 4),
    T(unpk_dst, CROSS, 0x100, 4, { R(4, A) }),
    T(unpk_src, CROSS, 0x100, 4, { R(4, A) }),
    T(unpk_self, CROSS, 0x100, 4),
    T(pka_dst, CROSS, 0x100, 4, { R(4, A) }),
    T(pka_src, CROSS, 0x100, 4, { R(4, A) }),
    T(unpka_dst, CROSS, 0x100, 4, { R(4, A) }),
    T(unpka_src, CROSS, 0x100, 12, { R(4, A) }),
    T(unpku_dst, CROSS, 0x100, 4, { R(4, A) }),
    T(unpku_src, CROSS, 0x100, 14, { R(4, A) }),
    T(tp, CROSS, 0x100, 4),
    T(cu12, CROSS | PARTIAL | STORES_FIRST | CONTENT, 0x100, 8,
      { R(6, A), R(7, 512), R(8, 0), R(9, 18) }, "a string that ends", NULL),
    T(cu41_self, CROSS | PARTIAL | STORES_FIRST | CONTENT, 0x100, 8,
      { R(7, 0x300), R(9, 20) }, utf32, utf32 + 20),
    T(cu42_self, CROSS | PARTIAL | STORES_FIRST | CONTENT, 0x100, 12,
      { R(7, 0x300), R(9, 20) }, utf32, utf32 + 20),
    T(kimd, CROSS | PARTIAL | NO_ACCESS, 0x100, 8,
      { R(0, 0), R(1, A), R(8, A), R(9, 128) }),

    T(lpswe, CONTENT, 0x100, 0, {}, (const char *)0x1000, NULL),
    T(ssm, CONTENT, 0x100, 0, {}, "\0\0", NULL),
    T(lctlg, CROSS, 0x100, 8),
    T(lctlg5, CROSS, 0x100, 8),
    T(lctl, CROSS, 0x100, 8),
    T(stosm, 0, 0x100),
    T(sckc, 0, 0x100),
    T(spt, 0, 0x100),
    T(stsch, 0, 0x100, 0, { R(1, 0x10000) }),
    T(stcrw, 0, 0x100),

    T(ex, CROSS | CONTENT, 0x100, 2, {}, insn_target, insn_target_end),
    { "ifetch 2", insn_target2, IFETCH, 0x100, 0, {},
      insn_target2, insn_target2_end },
    { "ifetch 4", insn_target, IFETCH | CROSS, 0x100, 2, {},
      insn_target, insn_target_end },
    { "ifetch 6 2+4", insn_target6, IFETCH | CROSS, 0x100, 2, {},
      insn_target6, insn_target6_end },
    { "ifetch 6 4+2", insn_target6, IFETCH | CROSS, 0x100, 4, {},
      insn_target6, insn_target6_end },
    { "ex of lg", insn_ex_operand, CROSS, 0x100, 4, { R(7, insn_lg) } },
    { "ex of mvc", insn_ex_operand, CROSS, 0x100, 8,
      { R(4, A), R(7, insn_mvc_dst) } },
    { "ex of stmg", insn_ex_operand, CROSS, 0x100, 24, { R(7, insn_stmg) } },
    { "ex of xc", insn_ex_operand, CROSS, 0x100, 8,
      { R(4, A), R(7, insn_xc) } },
    { "ex of trt", insn_ex_operand, CROSS | AUX_ZEROS, 0x100, 8,
      { R(4, A), R(7, insn_trt_array) } },
    { "ex of tr", insn_ex_operand, CROSS, 0x100, 8,
      { R(4, A), R(7, insn_tr_array) } },

    T(lra, NO_ACCESS, 0x100),
    T(tprot, NO_ACCESS, 0x100),
    T(iske, NO_ACCESS, 0x100),
    T(sske, NO_ACCESS, 0x100),
    T(rrbe, NO_ACCESS, 0x100),
};

/* The test that is being executed */
static const struct test *test;
static unsigned char *victim;
static unsigned int offset;
static uint64_t regs[16];
static const char *insn;
static int nullified;           /* the first fault was as it should be */

/*
 * Registers that programs have no business with, but some instructions do. The
 * compiler uses the lower half of vector registers.
 */
static struct other_regs {
    uint32_t access[16];
    uint64_t control[16];
    uint64_t vector[32];
} before, at_fault;

/* Different from what an instruction loads from the arena */
static void clear_other_regs(void)
{
    static const uint64_t zeros[32];

    asm volatile("lam %%a2,%%a9,%0; lctlg %%c2,%%c5,%0" : : "Q" (zeros));
    asm volatile("vlm %%v16,%%v31,0(%0)" : : "a" (zeros));
}

static void get_other_regs(struct other_regs *r)
{
    asm volatile("stam %%a0,%%a15,%0" : "=Q" (r->access));
    asm volatile("stctg %%c0,%%c15,%0" : "=Q" (r->control));
    asm volatile("vstm %%v16,%%v31,0(%0)"
                 : : "a" (r->vector) : "memory");
}

/* What has to be in the arena before the instruction is executed. */
static void fill_arena(void)
{
    unsigned int i, n;

    for (i = 0; i < sizeof(arena); i++) {
        arena[i] = i * 7 + i / 256 * 13 + 1;
    }
    if (test->flags & (CONTENT | IFETCH)) {
        const char *content = test->content;
        uint64_t psw[2] = { PSW_64, (unsigned long)insn_done };

        if (content == (const char *)0x1000) {
            content = (const char *)psw;
            n = sizeof(psw);
        } else if (test->content_end) {
            n = test->content_end - content;
        } else {
            for (n = 8; content[n]; n++) {
                continue;
            }
            n++;
        }
        for (i = 0; i < n; i++) {
            T1[offset + i] = content[i];
        }
    }
    if (test->flags & ZEROS) {
        memset(T1 + offset, 0, 256);
    }
    if (test->flags & AUX_ZEROS) {
        memset(A, 0, 256);
    }
    memcpy(snapshot, arena, sizeof(arena));
}

/* The victim, as it was before it was discarded, is in the snapshot. */
static int refill(void)
{
    unsigned long other;
    int ok;

    if (pgm.faults != 1 || pgm.code != PGM_DISCARD) {
        return 0;
    }
    ok = pgm.tec == (unsigned long)victim && get_state(victim) == VZ;
    get_other_regs(&at_fault);
    if (!(test->flags & PARTIAL)) {
        ok = ok && pgm.psw_addr == (unsigned long)insn &&
             same(pgm.regs, lc()->in_regs, sizeof(pgm.regs)) &&
             same(&at_fault, &before, sizeof(before));
    }
    if (!(test->flags & (PARTIAL | STORES_FIRST))) {
        for (other = 0; other < sizeof(arena); other += BLOCK) {
            ok = ok && (arena + other == victim ||
                        same(arena + other, snapshot + other, BLOCK));
        }
    }
    nullified = ok;
    essa(victim, SET_STABLE);
    memcpy(victim, snapshot + (victim - arena), BLOCK);
    return 1;
}

static void execute_test(unsigned char *discard, unsigned long mask)
{
    unsigned int i;

    victim = discard;
    nullified = 0;
    for (i = 0; i < sizeof(arena); i += BLOCK) {
        essa(arena + i, SET_STABLE);
    }
    fill_arena();
    for (i = 0; i < 14; i++) {
        regs[i] = test->regs[i];
    }
    regs[2] = (unsigned long)T1 + offset;
    /* Operands that are addressed by an even register of a pair */
    if (regs[7] == 0x300 && !regs[6]) {
        regs[6] = regs[2];
    }
    if (regs[9] && !regs[8]) {
        regs[8] = regs[2];
    }
    if (!regs[6]) {
        regs[6] = regs[2] + 64;
    }
    insn = test->flags & IFETCH ? (char *)T1 + offset : test->insn;
    if (victim) {
        essa(victim, SET_VOLATILE);
    }
    clear_other_regs();
    get_other_regs(&before);
    execute(insn, regs, mask, refill);
}

static uint64_t reference_regs[16];
static uint64_t reference_cc;

static void run_victim(unsigned char *discard, unsigned long mask,
                       const char *where)
{
    const char *dat = mask & PSW_DAT ? " DAT" : "";
    int ok;

    execute_test(discard, mask);
    if (test->flags & NO_ACCESS) {
        ok = pgm.faults == 0 && get_state(discard) == VZ &&
             same(lc()->out_regs, reference_regs, sizeof(reference_regs)) &&
             lc()->cc == reference_cc;
        tap_ok(ok, test->name, where, dat);
        goto out;
    }
    ok = pgm.faults == 1 && nullified && get_state(discard) == SR;
    essa(discard, SET_STABLE);
    if (!(test->flags & VARIES)) {
        ok = ok && same(arena, reference, sizeof(arena)) &&
             same(lc()->out_regs, reference_regs, sizeof(reference_regs)) &&
             lc()->cc == reference_cc;
    }
    tap_ok(ok, test->name, where, dat);
out:
    if (!ok) {
        ml_printf("# faults %d code %x tec %lx psw %lx, nullified %d, "
                  "state %s, registers %s, memory %s, cc %ld (%ld)\n",
                  pgm.faults, pgm.code, pgm.tec, pgm.psw_addr, nullified,
                  state_name(get_state(discard)),
                  same(lc()->out_regs, reference_regs,
                       sizeof(reference_regs)) ? "same" : "different",
                  same(arena, reference, sizeof(arena)) ? "same" : "different",
                  lc()->cc, reference_cc);
    }
}

static void run_test(unsigned long mask)
{
    offset = test->offset;
    execute_test(NULL, mask);
    if (pgm.faults) {
        tap_ok(0, test->name, " without a discarded block", "");
        ml_printf("# code %x\n", pgm.code);
        return;
    }
    memcpy(reference, arena, sizeof(arena));
    memcpy(reference_regs, lc()->out_regs, sizeof(reference_regs));
    reference_cc = lc()->cc;
    run_victim(T1, mask, "");

    if (test->flags & CROSS) {
        offset = BLOCK - test->cross;
        execute_test(NULL, mask);
        memcpy(reference, arena, sizeof(arena));
        memcpy(reference_regs, lc()->out_regs, sizeof(reference_regs));
        reference_cc = lc()->cc;
        run_victim(T1, mask, ", first block of two");
        run_victim(T2, mask, ", second block of two");
    }
}

int main(void)
{
    /* AFP registers and vectors, EDAT, secondary space; real space */
    uint64_t c0 = 0x0000000004860000UL, asce = 0x20;
    unsigned int i;

    asm volatile("lctlg %%c0,%%c0,%0" : : "Q" (c0));
    asm volatile("lctlg %%c1,%%c1,%0" : : "Q" (asce));
    asm volatile("lctlg %%c7,%%c7,%0" : : "Q" (asce));
    asm volatile("lctlg %%c13,%%c13,%0" : : "Q" (asce));
    cmm_init();
    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        test = &tests[i];
        if (!(test->flags & ONLY_DAT)) {
            run_test(0);
        }
        run_test(PSW_DAT);
    }
    return tap_done();
}
