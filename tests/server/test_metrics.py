"""What is shipped for monitoring: the metrics' configuration, loaded as it is into a real server whose OpenMetrics are
fetched, and the dashboard and the alerts, which may only use what is there."""

import json
import os
import re
import sqlite3
import time
import urllib.request

import pytest

import stores
from harness.server import TREE, free_ports
from metasync import Watch, last, put
from xkey import Sync, add, make_keys, must_add, remove

pytestmark = pytest.mark.skipif(os.environ.get("DOVETAIL_WRAPPER") == "asan",
                                reason="doveadm does not survive loading sanitized plugins")
EXAMPLES = os.path.join(TREE, "docs", "examples")
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+=\"[^\"]*\",?)+)\})? (-?[0-9.]+)$")
A, B = b"/private/vendor/test/a", b"/private/vendor/test/b"
# the most that the server allows here
VALUE, ENTRIES, BYTES = 5000, 20, 8000


class Metered:
    """A server with the shipped metrics."""

    def __init__(self, make_server):
        self.done = {}
        self.port = free_ports()
        self.server = make_server(
            plugin={"metasync_limit_value": str(VALUE), "metasync_limit_entries": str(ENTRIES),
                    "metasync_limit_bytes": str(BYTES), "metasync_limit_set": "10", "metasync_limit_name": "100",
                    "metasync_busy_timeout": "100ms"},
            extra="!include %s/metasync-metrics.conf\nservice stats {\n  inet_listener http {\n    address = 127.0.0.1\n"
            "    port = %d\n  }\n}\n" % (EXAMPLES, self.port))

    def scrape(self):
        """{"name{label="value",…}": number}, and nothing else may be there."""
        with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % self.port, timeout=30) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text;")
            lines = response.read().decode().splitlines()
        assert lines.pop() == "# EOF"
        series = {}
        for line in lines:
            if re.match(r"# (HELP|TYPE) [a-zA-Z_:][a-zA-Z0-9_:]* ", line):
                continue
            m = SAMPLE.match(line)
            assert m, "no sample: " + line
            name = m[1] + ("{%s}" % m[2] if m[2] else "")
            assert name not in series, "twice: " + line
            series[name] = float(m[3])
        return series

    def do(self, activity):
        """Has it done, once, and waits until the metrics have it: the statistics process gets events a moment later.
        Returns what was there before and after."""
        if activity not in self.done:
            before = self.scrape()
            activity(self.server)
            expected = {name: before.get(name, 0) + number for name, number in ACTIVITIES[activity].items()}
            end = time.monotonic() + 30
            while True:
                after = self.scrape()
                if all(after.get(name, 0) >= number for name, number in expected.items()) or time.monotonic() > end:
                    break
            assert {name: after.get(name, 0) for name in expected} == expected
            self.done[activity] = before, after
        return self.done[activity]


@pytest.fixture(scope="module")
def metered(make_module_server):
    return Metered(make_module_server)


def writes(server):
    """Five sets of clients, of 1 to 10 entries and 1 to 4000 octets, one of doveadm."""
    c = server.login("writer")
    put(c, [(A, b'"1"')])
    put(c, [(A, b'"%s"' % (b"x" * 20)), (B, b'"%s"' % (b"x" * 20))])
    put(c, [(A, b'"%s"' % (b"y" * 4000)), (B, b"NIL")])
    put(c, [(b"/private/%d" % i, b'"1"') for i in range(10)])
    assert last(c, b'SETMETADATA "" (%s "2")' % A).startswith(b"T OK")
    c.logout()
    assert server.doveadm("metasync", "set", "-u", "writer", "", A.decode(), "3").returncode == 0


def loses(server):
    c = server.login("loser")
    epoch, modseq = put(c, [(A, b'"1"')])
    put(c, [(A, b'"2"')])
    for _ in range(2):
        assert last(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s "3")' % (epoch, modseq, A)).startswith(
            b"T NO [XMETASET MODIFIED")
    assert last(c, b'XMETASET (UNCHANGEDSINCE (%d %d)) "" (%s "3")' % (epoch ^ 1, modseq, A)) == \
        b"T NO [XMETASET RESET] No such position, synchronize first."
    assert server.doveadm("metasync", "set", "-u", "loser", "-c", "0", "", A.decode(), "3").returncode == 65
    c.logout()


def is_limited(server):
    """Each limit by each way of writing that can reach it."""
    c = server.login("big")
    large = b"x" * (VALUE + 1)
    name = b"/private/" + b"n" * 100
    eleven = b" ".join(b'/private/%d ""' % i for i in range(11))
    for command, answer in (
            # refused by the announcement, after reading, by the store
            (b'XMETASET "" (%s {%d}' % (A, VALUE + 1), b"[METADATA MAXSIZE 5000]"),
            (b'XMETASET "" (%s {%d+}\r\n%s)' % (A, len(large), large), b"[METADATA MAXSIZE 5000]"),
            (b'XMETASET "" (%s "%s")' % (A, large), b"[METADATA MAXSIZE 5000]"),
            (b'SETMETADATA "" (%s {%d+}\r\n%s)' % (A, len(large), large), b"[METADATA MAXSIZE 5000]"),
            (b'XMETASET "" (%s "1")' % name, b"[LIMIT]"),
            (b'XMETASET "" (%s)' % eleven, b"[LIMIT]"),
            (b'SETMETADATA "" (%s "1")' % name, b"[LIMIT]"),
            (b'XMETASET "" (%s "%s" %s "%s")' % (A, large[:4500], B, large[:4500]), b"[OVERQUOTA]")):
        assert last(c, command).startswith(b"T NO " + answer), command[:60]
    for start in (0, 10):
        put(c, [(b"/private/%d" % i, b'""') for i in range(start, start + 10)])
    assert last(c, b'XMETASET "" (%s "1")' % A).startswith(b"T NO [METADATA TOOMANY]")
    assert last(c, b'SETMETADATA "" (%s "1")' % A).startswith(b"T NO [METADATA TOOMANY]")
    c.logout()
    for line in ('{"mailbox":"","entry":"%s","value":"1"}' % A.decode(),
                 '{"mailbox":"","entry":"%s","value":"%s"}' % (A.decode(), large.decode())):
        assert server.doveadm("metasync", "import", "-u", "big", "-", input=line).returncode == 65
    assert server.doveadm("metasync", "set", "-u", "big", "", A.decode(), large.decode()).returncode == 65


def waits(server):
    """Four catch-ups, of which three start again, and four pushes, one of them a reset while it waits."""
    c, d = server.login("waiter"), server.login("waiter")
    put(d, [(A, b'"%s"' % (b"x" * 100))])
    w = Watch(c, b'"" /private').catch_up()
    for i in range(3):
        put(d, [(A, b'"%d"' % i), (B, b'"%d"' % i)])
        w.until("marker")
    w.done()
    epoch, modseq, token = w.mark
    w.catch_up((epoch, modseq, b"%016x" % (int(token, 16) ^ 1))).done()
    w.catch_up((epoch ^ 1, modseq, token)).done()
    w.catch_up((epoch ^ 1, modseq, token))
    assert server.doveadm("metasync", "new-epoch", "-u", "waiter").returncode == 0
    w.until("reset")
    w.until("marker")
    w.done()
    c.logout()
    d.logout()


def breaks(server):
    """Each kind of store error, by a write and a read, and once by doveadm."""
    codes = {}
    for user, make, code in (("damaged", stores.damaged("garbage"), b"CORRUPTION"),
                             ("newer", stores.newer, b"UNAVAILABLE"),
                             ("refused", stores.linked, b"UNAVAILABLE"),
                             ("system", stores.not_writable, b"UNAVAILABLE")):
        stores.prepare(server, user, make)
        c = server.login(user)
        assert last(c, b'XMETASET "" (%s "1")' % A).startswith(b"T NO [%s]" % code)
        assert last(c, b'XMETASYNC (ONCE) "" /private').startswith(b"T NO [%s]" % code)
        c.logout()
        codes[user] = server.doveadm("metasync", "set", "-u", user, "", A.decode(), "1").returncode
    assert codes == {"damaged": 65, "newer": 75, "refused": 75, "system": 75}
    c = server.login("busy")
    put(c, [(A, b'"1"')])
    db = sqlite3.connect(stores.directory(server, "busy") + "/store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        assert last(c, b'XMETASET "" (%s "2")' % A).startswith(b"T NO [UNAVAILABLE]")
    db.execute("ROLLBACK")
    db.close()
    c.logout()


def has_keys(server):
    """A catch-up, and three pushes; three keys, and as many refusals."""
    c, d = server.login("keys"), server.login("keys")
    a, b, e = make_keys(3)
    must_add(d, a)
    s = Sync(c)
    s.first()
    must_add(d, b)
    s.until([a, b])
    must_add(d, e)
    s.until([a, b, e])
    remove(d, e)
    s.until([a, b])
    s.done()
    assert add(d, a.pem).startswith(b"NO duplicate")
    for _ in range(2):
        assert add(d, b"x").startswith(b"NO invalid")
    c.logout()
    d.logout()


COMMITTED = 'dovecot_metasync_committed_count{service="imap"}'
# what each adds to the counters
ACTIVITIES = {
    writes: {COMMITTED: 5, 'dovecot_metasync_committed_count{service="doveadm"}': 1,
             'dovecot_metasync_command_total{cmd_name="XMETASET",tagged_reply_state="OK"}': 4,
             'dovecot_metasync_command_total{cmd_name="SETMETADATA",tagged_reply_state="OK"}': 1,
             "dovecot_metasync_conflict_count": 0, "dovecot_metasync_limit_reached_count": 0,
             "dovecot_metasync_failed_count": 0, "dovecot_metasync_reset_count": 0},
    loses: {COMMITTED: 2, 'dovecot_metasync_conflict_total{reason="modified"}': 3,
            'dovecot_metasync_conflict_total{reason="reset"}': 1, "dovecot_metasync_conflict_count": 4},
    is_limited: {COMMITTED: 2, 'dovecot_metasync_limit_reached_total{limit="value"}': 6,
                 'dovecot_metasync_limit_reached_total{limit="set"}': 3,
                 'dovecot_metasync_limit_reached_total{limit="bytes"}': 1,
                 'dovecot_metasync_limit_reached_total{limit="entries"}': 3,
                 "dovecot_metasync_limit_reached_count": 13, "dovecot_metasync_failed_count": 0},
    waits: {COMMITTED: 4, 'dovecot_metasync_sent_count{kind="catch-up"}': 4,
            'dovecot_metasync_sent_count{kind="push"}': 4, 'dovecot_metasync_reset_total{reason="watch"}': 1,
            'dovecot_metasync_reset_total{reason="history"}': 3, "dovecot_metasync_reset_count": 4,
            'dovecot_metasync_command_total{cmd_name="XMETASYNC",tagged_reply_state="OK"}': 4},
    has_keys: {COMMITTED: 4, "dovecot_imap_xkey_added_total": 3, 'dovecot_imap_xkey_refused_total{reason="invalid"}': 2,
               'dovecot_imap_xkey_refused_total{reason="duplicate"}': 1, 'dovecot_imap_xkey_sent_count{kind="catch-up"}': 1,
               'dovecot_imap_xkey_sent_count{kind="push"}': 3,
               'dovecot_metasync_command_total{cmd_name="XKEYSYNC",tagged_reply_state="OK"}': 1,
               'dovecot_metasync_command_total{cmd_name="XKEYADD",tagged_reply_state="OK"}': 3},
    breaks: {COMMITTED: 5, 'dovecot_metasync_failed_total{reason="damaged"}': 3,
             'dovecot_metasync_failed_total{reason="newer"}': 3, 'dovecot_metasync_failed_total{reason="refused"}': 3,
             'dovecot_metasync_failed_total{reason="system"}': 3, 'dovecot_metasync_failed_total{reason="busy"}': 3,
             "dovecot_metasync_failed_count": 15, "dovecot_metasync_limit_reached_count": 0},
}


@pytest.mark.parametrize("activity", ACTIVITIES, ids=lambda activity: activity.__name__)
def test_counters(metered, activity):
    metered.do(activity)


def at_most(metered, activity, name, labels, limits):
    """What was added to the histogram's counts up to these limits."""
    before, after = metered.do(activity)
    keys = ["%s_bucket{%s,le=\"%s\"}" % (name, labels, limit) for limit in limits]
    return [int(after[key] - before.get(key, 0)) for key in keys]


def test_sizes(metered):
    imap = 'service="imap"'
    # 1, 40, 4000, 10 and 1 octets; 1, 2, 2, 10 and 1 entries
    assert at_most(metered, writes, "dovecot_metasync_committed_bytes", imap,
                   ("16", "32", "64", "2048", "4096", "+Inf")) == [3, 3, 4, 4, 5, 5]
    assert at_most(metered, writes, "dovecot_metasync_committed_entries", imap,
                   ("1", "2", "8", "16", "+Inf")) == [2, 4, 4, 5, 5]
    # catch-ups of 100, 2, 2 and 2 octets; pushes of 2 each
    assert at_most(metered, waits, "dovecot_metasync_sent_bytes", 'kind="catch-up"', ("16", "64", "128")) == [3, 3, 4]
    assert at_most(metered, waits, "dovecot_metasync_sent_bytes", 'kind="push"', ("16", "+Inf")) == [4, 4]


def test_durations(metered):
    assert at_most(metered, writes, "dovecot_metasync_committed", 'service="imap"', ("16.777216", "+Inf")) == [5, 5]
    before, after = metered.do(writes)
    committed = 'dovecot_metasync_committed_sum{service="imap"}'
    assert 0 < after[committed] - before.get(committed, 0) < 60
    # the pushes: not since the commands' beginning, of which one has waited for a run of doveadm
    before, after = metered.do(waits)
    assert 0 < after['dovecot_metasync_sent_sum{kind="push"}'] < \
        after['dovecot_metasync_command_duration_seconds_total{cmd_name="XMETASYNC",tagged_reply_state="OK"}']


def dashboard():
    with open(os.path.join(EXAMPLES, "metasync-dashboard.json")) as f:
        return json.load(f)


def dashboard_expressions():
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return found + [v["definition"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]


def alert_expressions():
    with open(os.path.join(EXAMPLES, "metasync-alerts.yml")) as f:
        return re.findall(r"expr: (?:>-\n)?((?:.+\n)(?: {10}.+\n)*?)(?= {8}\w+:)", f.read())


def test_expressions_use_what_is_there(metered):
    """Names, labels and labels' values."""
    for activity in ACTIVITIES:
        metered.do(activity)
    series = metered.scrape()
    names = {name.partition("{")[0] for name in series}
    labels = {}
    for name in series:
        for label, value in re.findall(r'([a-z_]+)="([^"]*)"', name):
            labels.setdefault(name.partition("{")[0], {}).setdefault(label, set()).add(value)
    expressions = dashboard_expressions() + alert_expressions()
    assert len(alert_expressions()) == 5 and len(expressions) > 20
    used = set()
    for expression in expressions:
        found = re.findall(r"(dovecot_\w+)(\{[^}]*\})?", expression)
        assert found, expression
        for name, selector in found:
            assert name in names, "no such metric: %s in %s" % (name, expression)
            used.add(name)
            for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector):
                # Prometheus adds instance; "" is for series without the label
                if label != "instance":
                    assert value in labels[name][label] | {""}, "%s=%s in %s" % (label, value, expression)
        for label in ", ".join(re.findall(r"by \(([^)]*)\)", expression)).split(", "):
            assert label in {"", "le", "instance"} or any(label in labels.get(name, {}) for name, _ in found), expression
    # each metric of the configuration is shown somewhere
    with open(os.path.join(EXAMPLES, "metasync-metrics.conf")) as f:
        for metric in re.findall(r"^metric (\w+)", f.read(), re.M):
            assert any(name.startswith("dovecot_" + metric) for name in used), metric


def test_dashboard():
    """What Grafana asks of a dashboard that is imported."""
    d = dashboard()
    assert d["title"] and d["uid"] and d["schemaVersion"] >= 39 and isinstance(d["panels"], list)
    variables = {v["name"]: v for v in d["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    assert len({p["id"] for p in d["panels"]}) == len(d["panels"]) == len({p["title"] for p in d["panels"]})
    places = set()
    for panel in d["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        g = panel["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & places
        places |= cells
        assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] and 'instance=~"$instance"' in target["expr"]
