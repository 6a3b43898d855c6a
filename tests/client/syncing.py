"""What the tests of the sync share: the driver, and another device of the user that speaks to the server by itself."""

import os

import pytest

from drive import Driver

ROOT = "/private/vendor/t"
A, B, C = ("%s/%s" % (ROOT, c) for c in "abc")
ALL = bytes(range(256))
LARGE = os.urandom(1024 * 1024)


class Other:
    """Another device, raw. literal: how values are announced; stock METADATA has no octets of value 0."""

    def __init__(self, client, verb=b"XMETASET", literal=b"~{%d+}\r\n%s", answer=b" OK [XMETASET ("):
        self.client = client
        self.verb, self.literal, self.answer = verb, literal, answer

    def put(self, *writes, mailbox=b'""'):
        """(entry, bytes or None) …"""
        body = b" ".join(b"%s %s" % (entry.encode(), b"NIL" if value is None else self.literal % (len(value), value))
                         for entry, value in writes)
        answer = self.client.command(b"%s %s (%s)" % (self.verb, mailbox, body))[-1].line
        assert self.answer in answer, answer

    def get(self, entry, mailbox=b'""'):
        for response in self.client.command(b"GETMETADATA %s (%s)" % (mailbox, entry.encode())):
            if response.tag == b"*" and b" METADATA " in response.line:
                return response.parsed[3][1]
        return None


@pytest.fixture
def driver():
    with Driver() as d:
        yield d


@pytest.fixture
def other(client, user):
    return Other(client(user))


def live(driver, name, server, user, **options):
    driver.sync(name, server, user, **options)
    driver.state("live", replica=name)


def settled(driver, name="r"):
    """Waits until nothing is left to be sent."""
    while driver("counts", name)["pending"]:
        driver.wait("consistent", replica=name)
