"""From a device's key, added by one session, to the same key at another."""

from . import push, report, servers


def run(results):
    blocks, polls = (10, 4) if results.quick else (100, 12)
    with servers.dovetail(xkey=True) as ours:
        results.data_is_on(ours.root)
        servers.fill(ours, "push", push.ENTRIES)
        samples = servers.drive(
            blocks,
            ("xmetasync", "push-dovetail", 20, ours.port, "push", push.ENTRIES),
            ("dovetail", "xkey-add", 20, ours.port, "add", 1),
            ("dovetail-xmetaset", "xkey-set", 20, ours.port, "set", 1), placed=True)
        # three seconds each
        samples.update(servers.drive(polls, ("poll-3s", "xkey-poll", 1, ours.port, "poll", 1)))
    results.runs["xkey"] = blocks
    for name in ("xmetasync", "dovetail", "dovetail-xmetaset", "poll-3s"):
        results.add("xkey", name, report.latency(samples[name]))
