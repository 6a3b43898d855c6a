"""What the benchmarks share: the two servers, a lean connection, filling a store, and the memory of the imap
process behind a connection."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile

from harness.server import BUILD, Server, connection_pid

VALUE = b"x" * 100

# Room for 100,000 entries, in one set 100 of them
LIMITS = {"metasync_limit_entries": "200000", "metasync_limit_bytes": "256M"}

STOCK = "mail_attribute_dict = file:%h/dovecot-attributes\nprotocol imap {\n  imap_metadata = yes\n}\n"


def dovetail(xkey=False):
    return Server(plugin=LIMITS, xkey=xkey)


def stock():
    """Dovecot without any of our plugins; its METADATA is in a file dictionary."""
    return Server(plugins=False, extra=STOCK)


class Connection:
    """An IMAP connection that only waits for the tagged reply. Values must not look like one."""

    def __init__(self, port, user, rcvbuf=0):
        self.socket = socket.socket()
        if rcvbuf:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.until(b"* OK")
        self.ask(b"LOGIN %s pass" % user.encode())

    def until(self, start):
        """Reads to the end of a last line that starts so; returns everything."""
        while True:
            if self.buffer.endswith(b"\r\n"):
                line = self.buffer.rfind(b"\n", 0, -1) + 1
                if self.buffer.startswith(start, line):
                    answer, self.buffer = bytes(self.buffer), bytearray()
                    return answer
            data = self.socket.recv(262144)
            if not data:
                raise EOFError("the server closed the connection: %r" % bytes(self.buffer[-200:]))
            self.buffer += data

    def send(self, command):
        self.socket.sendall(b"t " + command + b"\r\n")

    def wait(self):
        answer = self.until(b"t ")
        if b"\nt OK" not in b"\n" + answer[-1000:]:
            raise RuntimeError(answer[-1000:].decode(errors="replace"))
        return answer

    def ask(self, command):
        self.send(command)
        return self.wait()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def fill(server, user, entries, command=b'XMETASET ""'):
    """Entries /private/vendor/bench/e000000 and on, 100 bytes each, 100 in one set."""
    with Connection(server.port, user) as c:
        for start in range(0, entries, 100):
            pairs = b" ".join(b'/private/vendor/bench/e%06d "%s"' % (i, VALUE)
                              for i in range(start, min(start + 100, entries)))
            c.ask(b"%s (%s)" % (command, pairs))


def stock_dict(server, user):
    return os.path.join(server.home(user), "dovecot-attributes")


def fill_stock(server, user, entries):
    """The same entries. Stock rewrites its dictionary at each command, so only the first ones are set by one; the others
    are appended as Dovecot writes them: key and value, a line each."""
    fill(server, user, 100, b'SETMETADATA ""')
    with open(stock_dict(server, user), "r+b") as f:
        key = next(f).rstrip().rpartition(b"/e")[0] + b"/e%06d"
        f.seek(0, os.SEEK_END)
        for i in range(100, entries):
            f.write((key % i) + b"\n" + VALUE + b"\n")


def stock_entries(server, user):
    """How many there are."""
    with open(stock_dict(server, user), "rb") as f:
        return sum(b"/vendor/bench/e" in line for line in f)


def peak_kib(pid):
    """The most memory that the process has had."""
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))


def private_kib(pid):
    """Memory that is the process's own: not its code, which it shares with the others as long as there are any."""
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Private_Dirty:"))


@contextlib.contextmanager
def floor(server):
    """The floor program, its files beside the server's; yields the ports of its writer and its reader."""
    directory = tempfile.mkdtemp(prefix="floor-", dir=server.root)
    process = subprocess.Popen([os.path.join(BUILD, "bench", "bench-floor"), directory], stdout=subprocess.PIPE)
    try:
        yield process.stdout.readline().decode().split()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
        shutil.rmtree(directory)


def place(driver, connections):
    """Gives each process a processor: the clients (driver) the first one, the processes at the readers' connections
    another one, the writers' one of their own, or the clients' if there are but two."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return
    cpu = {"writer": cpus[1 if len(cpus) > 2 else 0], "reader": cpus[2 if len(cpus) > 2 else 1]}
    os.sched_setaffinity(driver, {cpus[0]})
    for role, client_port, server_port in connections:
        os.sched_setaffinity(connection_pid(client_port, server_port), {cpu[role]})


def drive(blocks, *subjects, placed=False):
    """Runs bench-driver on (name, kind, samples per block, port, who, entries), with place() if placed; returns
    name → seconds."""
    command = [os.path.join(BUILD, "bench", "bench-driver"), str(blocks)]
    command += [":".join(map(str, subject)) for subject in subjects]
    samples, connections = {}, []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        for line in driver.stdout:
            if line == "ready\n":
                break
            role, client_port, server_port = line.split()
            connections.append((role, int(client_port), int(server_port)))
        if placed:
            place(driver.pid, connections)
        driver.stdin.write("go\n")
        driver.stdin.close()
        for line in driver.stdout:
            name, seconds = line.split()
            samples.setdefault(name, []).append(float(seconds))
    if driver.returncode != 0:
        raise subprocess.CalledProcessError(driver.returncode, command)
    return samples
