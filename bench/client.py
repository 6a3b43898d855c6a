"""The first sync of a client: the command line fills an empty replica, beside a connection that reads the same bytes and
throws them away, and beside SQLite, which takes as many rows into such a table. And a folder of files that is mirrored, beside
a program that writes as many files and makes each durable."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time

from harness.measure import measure
from harness.server import BUILD

from . import report, servers

XMETASYNC = b'XMETASYNC (ONCE DEPTH infinity) "" /private/vendor/bench'


def raw(server, user, entries):
    """Seconds of the transfer alone, the login not counted."""
    with servers.Connection(server.port, user) as c:
        start = time.perf_counter()
        found = c.ask(XMETASYNC).count(b"/private/vendor/bench/e")
        seconds = time.perf_counter() - start
    if found != entries:
        raise RuntimeError("%d entries instead of %d" % (found, entries))
    return seconds, None


def rows(server, entries):
    """Seconds of one transaction that inserts so many rows."""
    path = tempfile.mkdtemp(prefix="sqlite-", dir=server.root)
    try:
        printed = subprocess.run([os.path.join(BUILD, "bench/bench-sqlite"), os.path.join(path, "db"), str(entries)],
                                 check=True, stdout=subprocess.PIPE, text=True).stdout
        return float(printed), None
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def client(server, user):
    """A home, and the command with an account in it."""
    home = tempfile.mkdtemp(prefix="client-", dir=server.root)
    try:
        account = os.path.join(home, "bench.conf")
        with open(account, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as f:
            f.write("host = 127.0.0.1\nport = %d\ntls = none\nuser = %s\npassword = pass\n"
                    "prefix = /private/vendor/bench\n" % (server.port, user))
        yield home, [os.path.join(BUILD, "src/cli/dovetail"), "--config", account, "--quiet"]
    finally:
        shutil.rmtree(home)


def sync(server, user, entries):
    """Seconds from start to end of the process, and its peak memory in KiB."""
    with client(server, user) as (home, command):
        seconds, peak, _ = measure(command + ["sync"], check=True, env=dict(os.environ, HOME=home))
        found = subprocess.run(command + ["--offline", "ls"], env=dict(os.environ, HOME=home), check=True,
                               stdout=subprocess.PIPE).stdout.count(b"\n")
        if found != entries:
            raise RuntimeError("dovetail: %d entries instead of %d" % (found, entries))
        return seconds, peak


def write_files(folder, count, durable):
    """In 30 folders, 100 octets each. Seconds."""
    start = time.perf_counter()
    for n in range(30):
        os.makedirs(os.path.join(folder, str(n)))
    for n in range(count):
        with open(os.path.join(folder, str(n % 30), str(n)), "wb", buffering=0) as f:
            f.write(b"%020d" % n * 5)
            if durable:
                os.fsync(f.fileno())
    return time.perf_counter() - start


def mirror(server, user, files):
    """Seconds of the floor, of a folder's first way to the server, and of the way into an empty folder elsewhere."""
    with client(server, user) as (here, command_here), client(server, user) as (there, command_there):
        floor = write_files(os.path.join(here, "floor"), files, True)
        write_files(os.path.join(here, "folder"), files, False)
        os.mkdir(os.path.join(there, "folder"))
        seconds = [measure(command + ["mirror", "--once", os.path.join(home, "folder")], check=True,
                           env=dict(os.environ, HOME=home))[0]
                   for home, command in ((here, command_here), (there, command_there))]
        found = sum(len(names) for at, _, names in os.walk(os.path.join(there, "folder")) if ".dovetail" not in at)
        if found != files:
            raise RuntimeError("mirror: %d files instead of %d" % (found, files))
        return floor, *seconds


def run_mirror(results, server, files=3000):
    case, rounds = "mirror-%d" % files, 3 if results.quick else 9
    samples = list(zip(*(mirror(server, "mirror%d" % n, files) for n in range(rounds))))
    results.runs[case] = rounds
    p50 = [report.percentile(seconds, 50) for seconds in samples]
    for name, seconds in zip(("floor", "dovetail-out", "dovetail-in"), p50):
        results.add(case, name, {"files_per_s": round(files / seconds), "p50_ms": round(seconds * 1000, 1), "samples": rounds})
    results.target("mirror: %d files to the server, in floors" % files, p50[1] / p50[0], 1)
    results.target("mirror: %d files from the server, in floors" % files, p50[2] / p50[0], 2)


def run(results):
    rounds = 3 if results.quick else 9
    with servers.dovetail() as server:
        results.data_is_on(server.root)
        for entries in (3000, 100000):
            user, case = "client%d" % entries, "client-%d" % entries
            servers.fill(server, user, entries)
            samples = {"raw-transfer": [], "sqlite-insert": [], "dovetail": []}
            for _ in range(rounds):
                samples["raw-transfer"].append(raw(server, user, entries))
                samples["sqlite-insert"].append(rows(server, entries))
                samples["dovetail"].append(sync(server, user, entries))
            results.runs[case] = rounds
            for name, figures in samples.items():
                p50 = report.percentile([seconds for seconds, _ in figures], 50)
                peaks = {} if figures[0][1] is None else {"peak_kib": max(peak for _, peak in figures)}
                results.add(case, name, {"entries_per_s": round(entries / p50), "p50_ms": round(p50 * 1000, 1),
                                         **peaks, "samples": rounds})
        run_mirror(results, server)
    small, large = (results.cases["client-%d" % n]["dovetail"]["peak_kib"] for n in (3000, 100000))
    results.target("more peak memory of the client for 100,000 entries than for 3,000, MiB", (large - small) / 1024, 4)
