"""One entry set, from the command to its tagged reply, with few and with many entries stored."""

from . import report, servers

ENTRIES = (100, 3000, 100000)


def run(results):
    blocks = 20 if results.quick else 100
    with servers.dovetail() as ours, servers.stock() as stock:
        results.data_is_on(ours.root)
        subjects = []
        for entries in ENTRIES:
            # a user for each subject: none finds what another one has left in the caches
            user = "set%d" % entries
            servers.fill(ours, user, entries)
            subjects.append(("%d/dovetail" % entries, "set-xmetaset", 25, ours.port, user, entries))
            servers.fill(ours, user + "-metadata", entries)
            subjects.append(("%d/dovetail-metadata" % entries, "set-setmetadata", 25, ours.port, user + "-metadata",
                             entries))
            servers.fill_stock(stock, user, entries)
            subjects.append(("%d/dovecot-metadata" % entries, "set-setmetadata", 25, stock.port, user, entries))
        # 20 MB written at each set: the others would wait for the disk because of it
        name, kind, _, *where = subjects.pop()
        with servers.floor(ours) as (writer, reader):
            subjects.append(("100/floor", "set-floor", 25, writer, reader, 100))
            samples = servers.drive(blocks, *subjects)
        samples.update(servers.drive(blocks, (name, kind, 1, *where)))
        for entries in ENTRIES:
            found = servers.stock_entries(stock, "set%d" % entries)
            if found != entries:
                raise RuntimeError("stock has %d entries instead of %d" % (found, entries))
    figures = {name: report.latency(seconds) for name, seconds in samples.items()}
    for name in sorted(figures, key=lambda name: (int(name.split("/")[0]), name)):
        entries, subject = name.split("/")
        results.runs["set-" + entries] = blocks
        results.add("set-" + entries, subject, figures[name])
    for subject, text in (("dovetail", "set"), ("dovetail-metadata", "SETMETADATA")):
        results.target("%s p50 at 100,000 entries, in sets at 100" % text,
                       figures["100000/" + subject]["p50_ms"] / figures["100/" + subject]["p50_ms"], 1.3)
