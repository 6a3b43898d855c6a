"""One entry set, from the command to its tagged reply, with few and with many entries stored."""

from . import report, servers


def run(results):
    blocks = 20 if results.quick else 100
    with servers.dovetail() as ours, servers.stock() as stock:
        results.data_is_on(ours.root)
        subjects = []
        for entries in (100, 3000, 100000):
            servers.fill(ours, "set%d" % entries, entries)
            subjects.append(("%d/dovetail" % entries, "set-dovetail", 25, ours.port, "set%d" % entries, entries))
        for entries in (100, 3000):
            servers.fill_stock(stock, "set%d" % entries, entries)
            subjects.append(("%d/dovecot-metadata" % entries, "set-dovecot", 25, stock.port,
                             "set%d" % entries, entries))
        with servers.floor(ours) as (writer, reader):
            subjects.append(("100/floor", "set-floor", 25, writer, reader, 100))
            samples = servers.drive(blocks, *subjects)
    figures = {name: report.latency(seconds) for name, seconds in samples.items()}
    for name in sorted(figures, key=lambda name: (int(name.split("/")[0]), name)):
        entries, subject = name.split("/")
        results.runs["set-" + entries] = blocks
        results.add("set-" + entries, subject, figures[name])
    results.target("set p50 at 100,000 entries, in sets at 100",
                   figures["100000/dovetail"]["p50_ms"] / figures["100/dovetail"]["p50_ms"], 1.3)
