"""From the command of one session to the value at another."""

from . import report, servers

ENTRIES = 100
PER_BLOCK = 50


def run(results):
    blocks = 20 if results.quick else 100
    with servers.dovetail() as ours, servers.stock() as stock:
        results.data_is_on(ours.root)
        servers.fill(ours, "push", ENTRIES)
        with servers.floor(ours) as (writer, reader):
            samples = servers.drive(
                blocks,
                ("dovetail", "push-dovetail", PER_BLOCK, ours.port, "push", ENTRIES),
                ("floor", "push-floor", PER_BLOCK, writer, reader, ENTRIES),
                # half a second each
                ("dovecot-idle", "push-idle", 1, stock.port, "push", ENTRIES), placed=True)
    figures = {name: report.latency(seconds) for name, seconds in samples.items()}
    # unlike the ratio, this does not depend on how long the disk takes
    figures["dovetail"]["above_floor_ms"] = round(figures["dovetail"]["p50_ms"] - figures["floor"]["p50_ms"], 4)
    results.runs["push"] = blocks
    for name in ("floor", "dovetail", "dovecot-idle"):
        results.add("push", name, figures[name])
    results.target("push p50, in floors", figures["dovetail"]["p50_ms"] / figures["floor"]["p50_ms"], 1.4)
    results.target("push p99, in floors", figures["dovetail"]["p99_ms"] / figures["floor"]["p99_ms"], 3)
