"""The first sync of a client: the command line fills an empty replica, beside a connection that reads the same bytes and
throws them away, and beside SQLite, which takes as many rows into such a table."""

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


def sync(server, user, entries):
    """Seconds from start to end of the process, and its peak memory in KiB."""
    home = tempfile.mkdtemp(prefix="client-", dir=server.root)
    try:
        account = os.path.join(home, "bench.conf")
        with open(account, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as f:
            f.write("host = 127.0.0.1\nport = %d\ntls = none\nuser = %s\npassword = pass\n"
                    "prefix = /private/vendor/bench\n" % (server.port, user))
        command = [os.path.join(BUILD, "src/cli/dovetail"), "--config", account, "--quiet"]
        seconds, peak, _ = measure(command + ["sync"], check=True, env=dict(os.environ, HOME=home))
        found = subprocess.run(command + ["--offline", "ls"], env=dict(os.environ, HOME=home), check=True,
                               stdout=subprocess.PIPE).stdout.count(b"\n")
        if found != entries:
            raise RuntimeError("dovetail: %d entries instead of %d" % (found, entries))
        return seconds, peak
    finally:
        shutil.rmtree(home)


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
    small, large = (results.cases["client-%d" % n]["dovetail"]["peak_kib"] for n in (3000, 100000))
    results.target("more peak memory of the client for 100,000 entries than for 3,000, MiB", (large - small) / 1024, 4)
