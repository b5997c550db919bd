/*
 * QTest of the QMP commands for page states (collaborative memory management)
 *
 * What guest and host do with the states is tested by programs that run in the
 * guest: tests/tcg/s390x/cmm-*.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "libqtest.h"

#define MACHINE "-machine s390-ccw-virtio -m 128M -S "
#define BLOCKS (128 * 1024 / 4)

static const struct {
    const char *name;
    const char *arguments;
} commands[] = {
    { "x-query-s390-page-states", "{}" },
    { "x-s390-reclaim-pages", "{}" },
    { "x-s390-set-resident-limit", "{ \"bytes\": 1048576 }" },
};

static QDict *execute(QTestState *qts, const char *command,
                      const char *arguments)
{
    return qtest_qmp(qts, "{ 'execute': %s, 'arguments': %p }", command,
                     qobject_from_json(arguments, &error_abort));
}

/* The command must succeed. */
static QDict *execute_ok(QTestState *qts, const char *command,
                         const char *arguments)
{
    QDict *response = execute(qts, command, arguments);
    QDict *ret;

    g_assert(qdict_haskey(response, "return"));
    ret = qobject_ref(qdict_get_qdict(response, "return"));
    qobject_unref(response);
    return ret;
}

/* The command must be refused, with @what in the description. */
static void execute_refused(QTestState *qts, const char *command,
                            const char *arguments, const char *what)
{
    QDict *response = execute(qts, command, arguments);
    QDict *error = qdict_get_qdict(response, "error");

    g_assert_nonnull(error);
    g_assert_cmpstr(qdict_get_str(error, "class"), ==, "GenericError");
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"), what));
    qobject_unref(response);
}

static uint64_t get_count(QTestState *qts, const char *name)
{
    QDict *states = execute_ok(qts, "x-query-s390-page-states", "{}");
    uint64_t n = qdict_get_int(states, name);

    qobject_unref(states);
    return n;
}

/* Each block is in one state. */
static void check_states(QTestState *qts)
{
    static const char *const names[] = {
        "stable-resident", "stable-preserved", "stable-zero",
        "unused-resident", "unused-zero", "volatile-resident",
        "volatile-zero", "potentially-volatile-resident",
    };
    QDict *states = execute_ok(qts, "x-query-s390-page-states", "{}");
    uint64_t n = 0;
    int i;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        n += qdict_get_int(states, names[i]);
    }
    g_assert_cmpuint(n, ==, BLOCKS);
    g_assert_cmpuint(qdict_get_int(states, "blocks"), ==, BLOCKS);
    qobject_unref(states);
}

static void test_refused(gconstpointer options)
{
    QTestState *qts = qtest_init(options);
    char *info;
    int i;

    for (i = 0; i < ARRAY_SIZE(commands); i++) {
        execute_refused(qts, commands[i].name, commands[i].arguments,
                        "Page states are not kept");
    }
    info = qtest_hmp(qts, "info cmma");
    g_assert_nonnull(strstr(info, "Error: Page states are not kept"));
    g_free(info);
    qtest_quit(qts);
}

static void test_query(void)
{
    QTestState *qts = qtest_init(MACHINE "-accel tcg -cpu max");
    static const char *const beyond[] = {
        "0x8000000", "0x8000000 100000", "0xfffffffffffff000 1", "0 -1",
    };
    uint64_t resident;
    char *info;
    int i;

    check_states(qts);
    resident = get_count(qts, "stable-resident");
    g_assert_cmpuint(resident, <, BLOCKS / 2);

    /* Whoever writes to a block makes it resident; reading does not. */
    qtest_readb(qts, 64 * MiB);
    g_assert_cmpuint(get_count(qts, "stable-resident"), ==, resident);
    qtest_memset(qts, 64 * MiB - 1, 0x5a, 2);
    g_assert_cmpuint(get_count(qts, "stable-resident"), ==, resident + 2);
    check_states(qts);

    info = qtest_hmp(qts, "info cmma");
    g_assert_nonnull(strstr(info, "stable"));
    g_free(info);
    info = qtest_hmp(qts, "info cmma 0x4000000 2");
    g_assert_nonnull(strstr(info, "pages 16384+2"));
    g_assert_null(strstr(info, "Error"));
    g_free(info);
    for (i = 0; i < ARRAY_SIZE(beyond); i++) {
        info = qtest_hmp(qts, "info cmma %s", beyond[i]);
        g_assert_nonnull(strstr(info, "Error"));
        g_free(info);
    }
    qtest_quit(qts);
}

static void test_reclaim(void)
{
    QTestState *qts = qtest_init(MACHINE "-accel tcg -cpu max");
    static const char *const arguments[] = {
        "{}", "{ \"bytes\": 0 }", "{ \"bytes\": 1 }",
        "{ \"bytes\": 18446744073709551615 }",
    };
    int i;

    /* Nothing but stable blocks: nothing to take */
    qtest_memset(qts, 64 * MiB, 0x5a, 8192);
    for (i = 0; i < ARRAY_SIZE(arguments); i++) {
        QDict *ret = execute_ok(qts, "x-s390-reclaim-pages", arguments[i]);

        g_assert_cmpint(qdict_get_int(ret, "released-bytes"), ==, 0);
        g_assert_cmpint(qdict_get_int(ret, "unused"), ==, 0);
        g_assert_cmpint(qdict_get_int(ret, "volatile"), ==, 0);
        g_assert_cmpint(qdict_get_int(ret, "potentially-volatile"), ==, 0);
        qobject_unref(ret);
    }
    g_assert_cmpint(qtest_readb(qts, 64 * MiB + 8191), ==, 0x5a);
    qtest_quit(qts);
}

static void test_limit(void)
{
    QTestState *qts = qtest_init(MACHINE "-accel tcg -cpu max "
        "-global s390-storage_attributes-qemu.resident-limit=64M");

    g_assert_cmpuint(get_count(qts, "resident-limit"), ==, 64 * MiB);
    qobject_unref(execute_ok(qts, "x-s390-set-resident-limit",
                             "{ \"bytes\": 4097 }"));
    g_assert_cmpuint(get_count(qts, "resident-limit"), ==, 8192);
    execute_refused(qts, "x-s390-set-resident-limit",
                    "{ \"bytes\": 18446744073709551615 }", "too large");
    g_assert_cmpuint(get_count(qts, "resident-limit"), ==, 8192);
    qobject_unref(execute_ok(qts, "x-s390-set-resident-limit",
                             "{ \"bytes\": 0 }"));
    g_assert_cmpuint(get_count(qts, "resident-limit"), ==, 0);
    qtest_quit(qts);
}

static void test_incoming(void)
{
    QTestState *qts = qtest_init(MACHINE "-accel tcg -cpu max "
                                 "-incoming defer");

    execute_refused(qts, "x-s390-reclaim-pages", "{}", "being migrated");
    /* Nothing is known of the memory that is to come. */
    g_assert_cmpuint(get_count(qts, "stable-resident"), ==, BLOCKS);
    qtest_quit(qts);
}

/* Any arguments: an answer, and all blocks are still in some state. */
static void test_fuzz(void)
{
    static const char *const names[] = {
        "bytes", "Bytes", "", "limit", "bytes\\u0000",
    };
    static const char *const values[] = {
        "0", "1", "-1", "4096", "1e3", "1e300", "18446744073709551615",
        "18446744073709551616", "-9223372036854775809", "true", "null",
        "\"4096\"", "\"\"", "[]", "[4096]", "{}", "{ \"bytes\": 1 }",
    };
    QTestState *qts = qtest_init(MACHINE "-accel tcg -cpu max");
    int i;

    for (i = 0; i < 300; i++) {
        g_autofree char *arguments = g_strdup_printf("{ \"%s\": %s }",
            names[g_test_rand_int_range(0, 3) ?
                  0 : g_test_rand_int_range(0, ARRAY_SIZE(names))],
            values[g_test_rand_int_range(0, ARRAY_SIZE(values))]);
        const char *name =
            commands[g_test_rand_int_range(0, ARRAY_SIZE(commands))].name;
        QObject *parsed = qobject_from_json(arguments, NULL);
        QDict *response;

        if (!parsed) {
            continue;
        }
        response = qtest_qmp(qts, "{ 'execute': %s, 'arguments': %p }", name,
                             parsed);
        g_assert(qdict_haskey(response, "return") ||
                 qdict_haskey(response, "error"));
        qobject_unref(response);
    }
    check_states(qts);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_data_func("/s390-cmm/refused/accel", MACHINE, test_refused);
    if (qtest_has_accel("tcg")) {
        qtest_add_data_func("/s390-cmm/refused/cpu",
                            MACHINE "-accel tcg -cpu max,cmm=off,cmmnt=off",
                            test_refused);
        qtest_add_func("/s390-cmm/query", test_query);
        qtest_add_func("/s390-cmm/reclaim", test_reclaim);
        qtest_add_func("/s390-cmm/limit", test_limit);
        qtest_add_func("/s390-cmm/incoming", test_incoming);
        qtest_add_func("/s390-cmm/fuzz", test_fuzz);
    }
    return g_test_run();
}
