#!/usr/bin/env python3
#
# Functional test of page states (collaborative memory management): what the
# guest does not need is given back to the host, kept out of migrations, and
# what it does need survives on a paging file.
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import time

from qemu_test import QemuSystemTest

# Runs from 64 KiB on, where the short PSW in the first bytes points to:
#
#           llilf   %r2,0x2000000       32 MiB
#           llilf   %r3,0x4000          blocks
#   0:      stg     %r2,0(%r2)          each has its address in it
#           aghi    %r2,4096
#           brctg   %r3,0b
#           llilf   %r2,0x2000000
#           llilf   %r3,0x2000          the first half is
#   1:      essa    %r1,%r2,2           unused
#           aghi    %r2,4096
#           brctg   %r3,1b
#   2:      llilf   %r2,0x4000000       the second half is
#           llilf   %r3,0x2000
#   3:      cg      %r2,0(%r2)          compared for ever
#           jne     4f
#           aghi    %r2,4096
#           brctg   %r3,3b
#           j       2b
#   4:      larl    %r1,5f              or else a disabled wait
#           lpswe   0(%r1)
#           .balign 8
#   5:      .quad   0x0002000180000000,0
PSW = bytes.fromhex('00080000 80010000')
PROGRAM = bytes.fromhex(
    'c02f02000000 c03f00004000 e32020000024 a72b1000 a737fffb'
    'c02f02000000 c03f00002000 b9ab2012 a72b1000 a737fffc'
    'c02f04000000 c03f00002000 e32020000020 a7740008 a72b1000 a737fff9'
    'a7f4fff1 c01000000006 b2b21000 0707 0002000180000000 0000000000000000')
BLOCK = 4096
HALF = 32 << 20


class S390xPageStates(QemuSystemTest):

    def guest(self, name, *args):
        """A guest with 128 MiB that runs PROGRAM."""
        path = self.scratch_file('program')
        with open(path, 'wb') as file:
            file.write(PSW.ljust(0x10000, b'\0') + PROGRAM)
        self.set_machine('s390-ccw-virtio')
        vm = self.get_vm('-nodefaults', '-m', '128', '-cpu', 'max',
                         '-kernel', path, *args, name=name)
        vm.launch()
        return vm

    def states(self, vm):
        return vm.cmd('x-query-s390-page-states')

    def wait_for(self, vm, question):
        """Wait until the answer is true for the page states."""
        end = time.monotonic() + 30
        while not question(self.states(vm)):
            self.assertLess(time.monotonic(), end, self.states(vm))
            time.sleep(0.05)

    def wait_until_compared(self, vm):
        """Wait until the first half is unused, and the second is looked at."""
        self.wait_for(vm, lambda s: s['unused-resident'] >= HALF // BLOCK)

    def assert_content(self, vm):
        """The guest finds what it has stored; it takes some milliseconds."""
        time.sleep(0.5)
        self.assertEqual(vm.cmd('query-status')['status'], 'running')

    def resident(self, vm):
        """The memory that the host has for the process, in bytes."""
        with open(f'/proc/{vm.get_pid()}/status', encoding='ascii') as file:
            return int(re.search(r'VmRSS:\s*(\d+)', file.read())[1]) * 1024

    def test_reclaim(self):
        vm = self.guest('reclaim')
        self.wait_until_compared(vm)
        before = self.resident(vm)
        taken = vm.cmd('x-s390-reclaim-pages')
        self.assertEqual(taken['unused'] * BLOCK, taken['released-bytes'])
        self.assertGreaterEqual(taken['released-bytes'], HALF)
        self.assertGreater(before - self.resident(vm), HALF * 3 // 4)
        self.assert_content(vm)

    def test_paging(self):
        vm = self.guest('paging', '-global',
                        's390-storage_attributes-qemu.paging-file=' +
                        os.path.join(self.workdir, 'paging'))
        self.wait_until_compared(vm)
        # Less than the guest uses: blocks have to go and come back
        vm.cmd('x-s390-set-resident-limit', bytes=HALF // 2)
        self.wait_for(vm, lambda s: s['paged-in'] > 100)
        states = self.states(vm)
        self.assertGreater(states['paged-out'], states['paged-in'])
        self.assert_content(vm)

    def test_migration(self):
        uri = 'unix:' + os.path.join(self.socket_dir().name, 'migration')
        target = self.guest('target', '-incoming', uri)
        source = self.guest('source')
        self.wait_until_compared(source)
        source.cmd('migrate', uri=uri)
        end = time.monotonic() + 60
        while target.cmd('query-status')['status'] != 'running':
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        sent = source.cmd('query-migrate')['ram']['transferred']
        self.assertGreater(sent, HALF)
        self.assertLess(sent, HALF + HALF // 2)
        states = self.states(target)
        self.assertEqual(states['unused-resident'], 0)
        self.assertGreaterEqual(states['unused-zero'], HALF // BLOCK)
        self.assert_content(target)


if __name__ == '__main__':
    QemuSystemTest.main()
