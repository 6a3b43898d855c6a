"""Many writers, many readers, one account: writers always set two entries together, each reader goes at its
own speed, leaves, comes back, resumes from markers and from PARTIAL marks. At each full marker the two
entries of each pair are equal, and at rest every reader holds exactly the store."""

import random
import threading
import time

import pytest

from metasync import Watch, last

# All of it together is more than a MiB, so that there are PARTIAL marks
PAIRS = 100
PADS = (10, 1000, 60000)
# The last set of all gives this entry the value "end"
LAST = (b"", b"/private/pair/0/a")


def check_pairs(state):
    for i in range(PAIRS):
        a = state.get((b"", b"/private/pair/%d/a" % i))
        b = state.get((b"", b"/private/pair/%d/b" % i))
        assert a == b, "pair %d is torn: %r… %r…" % (i, (a or b"-")[:20], (b or b"-")[:20])


class Writer(threading.Thread):
    def __init__(self, client, seed, until):
        super().__init__()
        self.client, self.random, self.until = client, random.Random(seed), until
        self.seed, self.sets, self.error = seed, 0, None

    def run(self):
        try:
            while time.monotonic() < self.until:
                i = self.random.randrange(PAIRS)
                if self.random.random() < 0.2:
                    value = b"NIL"
                else:
                    body = b"%d-%d-" % (self.seed, self.sets)
                    body += b"x" * self.random.choice(PADS)
                    value = b"{%d+}\r\n%s" % (len(body), body)
                line = last(self.client, b'XMETASET "" (/private/pair/%d/a %s /private/pair/%d/b %s)'
                            % (i, value, i, value))
                assert line.startswith(b"T OK "), line
                self.sets += 1
        except BaseException as error:
            self.error = error


class Reader(threading.Thread):
    """Runs until told to rest, then from its bookmark to the last set of all."""

    def __init__(self, login, seed, rest):
        super().__init__()
        self.login, self.random, self.rest = login, random.Random(seed), rest
        # the bookmark that belongs to what is kept in the watch's state
        self.bookmark, self.state = None, {}
        self.watch, self.markers, self.partials, self.error = None, 0, 0, None

    def resume(self):
        if self.watch:
            self.watch.client.reset()
        self.watch = Watch(self.login(), b'"" /private/pair', state=self.state)
        self.watch.start(self.bookmark)

    def read(self):
        kind = self.watch.handle(self.watch.client.read_response())
        if kind == "marker":
            self.markers += 1
            check_pairs(self.watch.state)
            self.bookmark, self.state = self.watch.mark, self.watch.state
        return kind

    def run(self):
        try:
            self.resume()
            while not self.rest.is_set():
                kind = self.read()
                if kind == "partial" and self.random.random() < 0.8:
                    # keep what was told so far, lose the connection
                    self.partials += 1
                    self.watch.commit()
                    self.bookmark, self.state = self.watch.partial, self.watch.state
                    self.resume()
                elif kind == "marker" and self.random.random() < 0.05:
                    # without a goodbye; what comes after the marker is dropped
                    self.resume()
                elif self.random.random() < 0.05:
                    # a slow reader: waits for the writers, not for a clock
                    self.rest.wait(self.random.random() * 0.2)
            # the end: everything that is there
            self.resume()
            while self.watch.state.get(LAST) != b"end":
                self.read()
            self.watch.done()
        except BaseException as error:
            self.error = error


@pytest.mark.parametrize("seconds", [8])
def test_pairs_are_never_torn(server, user, seconds):
    until = time.monotonic() + seconds
    rest = threading.Event()
    writers = [Writer(server.login(user), i, until) for i in range(3)]
    readers = [Reader(lambda: server.login(user, rcvbuf=65536), 100 + i, rest) for i in range(5)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    rest.set()
    # who has heard of everything waits for more: one more thing wakes all readers up
    last(server.login(user), b'XMETASET "" (/private/pair/0/a "end" /private/pair/0/b "end")')
    for thread in readers:
        thread.join()
    for thread in writers + readers:
        if thread.error:
            raise thread.error
    truth = Watch(server.login(user), b'"" /private/pair').catch_up().done()
    # a set that removes what is not there is no change, all others count
    assert 1 < truth.mark[1] <= 2 + sum(w.sets for w in writers)
    for reader in readers:
        assert reader.watch.state == truth.state
        assert reader.markers > 0
    # and most of them before the end
    assert sum(reader.markers for reader in readers) > 2 * len(readers)
    # some lost the connection after a PARTIAL mark, and resumed from it
    assert sum(reader.partials for reader in readers) > 0
