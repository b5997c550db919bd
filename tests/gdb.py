"""A debugger of the guest's kernel: stop at a function, look, change memory, go on.

As much of the remote serial protocol, which QEMU's gdbstub speaks, as the tests need: a gdb that knows s390x is a
large package.  The guest is started with `extra=gdb.EXTRA` and runs undisturbed until there is a Debugger.
"""

import re
import socket

import hva

EXTRA = ("-chardev", "socket,id=gdb,path=SOCKETS/gdb,server=on,wait=off", "-gdb", "chardev:gdb")

# A breakpoint takes the place of an instruction of two bytes
BREAKPOINT = "Z0,%x,2"
NO_BREAKPOINT = "z0,%x,2"
# The number of r0; before it are the two halves of the PSW
R0 = 2


class Debugger:
    """Stops the guest when it is made, and lets it go when it is closed."""

    def __init__(self, guest):
        self.symbols = dict(reversed(line.split()[::2]) for line in guest.check(
            "grep -v ' [aAdDbBrR] \\|\\[' /proc/kallsyms").splitlines())
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(guest.qmp.SECONDS)
        hva.connect(self.sock, guest.sockets / "gdb", guest.process)
        self.file = self.sock.makefile("rwb")
        self.ask("QStartNoAckMode")
        self.file.write(b"+")
        self.breakpoints = []
        self.thread = ""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for address in self.breakpoints:
            self.ask(NO_BREAKPOINT % address)
        self.ask("D")
        self.sock.close()

    def send(self, text):
        self.file.write(b"$%s#%02x" % (text.encode(), sum(text.encode()) & 0xff))
        self.file.flush()

    def receive(self, what):
        """The next packet, without acknowledgements."""
        packet = b""
        try:
            while not re.search(rb"#..$", packet):
                byte = self.file.read(1)
                if not byte:
                    raise hva.HvaError(f"gdbstub: QEMU ended during {what}")
                packet += byte
        except TimeoutError:
            raise hva.HvaError(f"gdbstub: no answer to {what}") from None
        return packet.lstrip(b"+")[1:-3].decode()

    def ask(self, text):
        self.send(text)
        answer = self.receive(text)
        if re.fullmatch("E..", answer):
            raise hva.HvaError(f"gdbstub: {text}: error {answer[1:]}")
        return answer

    def stop_at(self, function):
        """Set a breakpoint; its address."""
        address = int(self.symbols[function], 16)
        self.ask(BREAKPOINT % address)
        self.breakpoints.append(address)
        return address

    def resume(self):
        """Go on until a CPU comes to a breakpoint."""
        self.thread = re.search(r"thread:([^;]+);", self.ask("vCont;c")).group(1)
        self.ask(f"Hg{self.thread}")

    def step_over(self, address):
        """One instruction of the CPU that stopped there; the others stand still."""
        self.ask(NO_BREAKPOINT % address)
        self.ask(f"vCont;s:{self.thread}")
        self.ask(BREAKPOINT % address)

    def register(self, nr):
        return int(self.ask(f"p{R0 + nr:x}"), 16)

    def psw_address(self):
        return self.register(-1)

    def read(self, address):
        """A doubleword of the memory that the CPU sees."""
        return int(self.ask(f"m{address:x},8"), 16)

    def write(self, address, value):
        self.ask(f"M{address:x},8:{value:016x}")
