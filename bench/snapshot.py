"""All entries, as a client reads them that has never been here."""

import time

from harness.server import imap_pid

from . import report, servers

XMETASYNC = b'XMETASYNC (ONCE DEPTH infinity) "" /private'
# Stock Dovecot's iteration of /private itself needs care; below it, both read the same entries.
GETMETADATA = b'GETMETADATA (DEPTH infinity) "" (/private/vendor/bench)'


def read_all(server, user, command, entries):
    """In a new connection, as its first command. Returns seconds and the imap process's peak memory."""
    with servers.Connection(server.port, user) as c:
        start = time.perf_counter()
        c.send(command)
        answer = c.wait()
        seconds = time.perf_counter() - start
        found = answer.count(b"/private/vendor/bench/e")
        if found != entries:
            raise RuntimeError("%s: %d entries instead of %d" % (command.decode(), found, entries))
        return seconds, servers.peak_kib(imap_pid(c.socket))


def measure(rounds, *subjects):
    """Rounds over (name, server, user, command, entries); returns name → figures."""
    samples = {subject[0]: [] for subject in subjects}
    for _ in range(rounds):
        for name, *what in subjects:
            samples[name].append(read_all(*what))
    figures = {}
    for name, *_, entries in subjects:
        seconds, peaks = zip(*samples[name])
        p50 = report.percentile(seconds, 50)
        figures[name] = {"entries_per_s": round(entries / p50), "p50_ms": round(p50 * 1000, 3),
                         "peak_kib": max(peaks), "samples": rounds}
    return figures


def run(results):
    small, large = (15, 5) if results.quick else (50, 15)
    with servers.dovetail() as ours, servers.stock() as stock:
        results.data_is_on(ours.root)
        servers.fill(ours, "snap3000", 3000)
        servers.fill_stock(stock, "snap3000", 3000)
        servers.fill(ours, "snap100000", 100000)
        at_small = measure(small, ("dovecot-metadata", stock, "snap3000", GETMETADATA, 3000),
                           ("dovetail", ours, "snap3000", XMETASYNC, 3000))
        at_large = measure(large, ("dovetail", ours, "snap100000", XMETASYNC, 100000))
    results.runs.update({"snapshot-3000": small, "snapshot-100000": large})
    for name, figures in at_small.items():
        results.add("snapshot-3000", name, figures)
    results.add("snapshot-100000", "dovetail", at_large["dovetail"])
    results.target("snapshot of 3,000 entries, in GETMETADATAs per second",
                   at_small["dovetail"]["entries_per_s"] / at_small["dovecot-metadata"]["entries_per_s"], 2,
                   at_least=True)
    results.target("more peak memory for 100,000 entries than for 3,000, MiB",
                   (at_large["dovetail"]["peak_kib"] - at_small["dovetail"]["peak_kib"]) / 1024, 1)
