"""What the tests of XKEYSYNC and XKEYADD share: keys, and a client that keeps the list of a user's devices."""

import base64
import functools
import hashlib
import itertools
import operator
import random
import re
import subprocess
import tempfile

from metasync import TOOK, put

DIR = b"/private/vendor/dovetail/xkey"
CREATED = re.compile(rb"\* XKEYSYNC CREATED \{(\d+)\}\r\n(.*)\Z", re.S)
DELETED = re.compile(rb"\* XKEYSYNC DELETED ([0-9a-f]{64})\Z")

# -- keys ------------------------------------------------------------------------------------------

def tlv(tag, content):
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 + len(octets)]) + octets + content


def integer(number):
    return tlv(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def pem(der, name=b"PUBLIC KEY", line=64):
    text = base64.b64encode(der)
    lines = b"".join(text[i:i + line] + b"\n" for i in range(0, len(text), line))
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (name, lines, name)


RSA_ENCRYPTION = tlv(0x30, bytes.fromhex("06092a864886f70d0101010500"))


def rsa_der(modulus, exponent=65537):
    """The RSAPublicKey of PKCS#1."""
    return tlv(0x30, integer(modulus) + integer(exponent))


def spki(public, algorithm=RSA_ENCRYPTION):
    return tlv(0x30, algorithm + tlv(3, b"\0" + public))


class Key:
    """A public key: pem as it is stored, fpr its name."""

    def __init__(self, public):
        self.fpr = hashlib.sha256(public).hexdigest().encode()
        self.pem = pem(spki(public))

    @property
    def entry(self):
        return DIR + b"/" + self.fpr


def openssl(*args, data=None):
    return subprocess.run(["openssl", *args], input=data, capture_output=True, check=True, timeout=60).stdout


@functools.lru_cache(None)
def primes():
    return [int(openssl("prime", "-generate", "-bits", "512")) for _ in range(24)]


@functools.lru_cache(None)
def moduli():
    """Products of two primes, each once: keys are needed by the hundred, and a prime of its own for each would take long."""
    return itertools.starmap(operator.mul, itertools.combinations(primes(), 2))


def make_key():
    """A key of 1024 bits."""
    return Key(rsa_der(next(moduli())))


def make_keys(count):
    return [make_key() for _ in range(count)]


def make_large_keys(count):
    """Of 4096 bits, and not good for anything: random numbers. XKEYADD would refuse some of them, fill() does not."""
    return [Key(rsa_der(random.getrandbits(4096) | 1 << 4095 | 1)) for _ in range(count)]


def generate(*args):
    """A private key of openssl genpkey, as PEM."""
    return openssl("genpkey", "-algorithm", *args)


def public_of(private):
    return openssl("pkey", "-pubout", data=private)


def key_of(public):
    """A Key of what openssl says of a public RSA key."""
    with tempfile.NamedTemporaryFile() as f:
        f.write(public)
        f.flush()
        return Key(openssl("rsa", "-pubin", "-in", f.name, "-RSAPublicKey_out", "-outform", "DER"))


ALIVE = b"* OK still syncing"


# -- commands --------------------------------------------------------------------------------------

def tagged(client, tag):
    """The tagged reply, which has to come next (but for signs of life), without tag and times."""
    line = ALIVE
    while line == ALIVE:
        line = client.next(re.escape(tag) + b" |" + re.escape(ALIVE)).line
    return TOOK.sub(b"", line[len(tag) + 1:])


def add(client, text):
    """XKEYADD as the client sends it; returns the reply."""
    return tagged(client, client.start(b"XKEYADD {%d+}\r\n%s" % (len(text), text)))


def added(key):
    return b"OK [XKEYADD %s] key added" % key.fpr


def must_add(client, *keys):
    for key in keys:
        assert add(client, key.pem) == added(key)


def fill(client, keys):
    """Keys, by another way than XKEYADD, and so without its limit."""
    for i in range(0, len(keys), 100):
        put(client, [(key.entry, b"{%d+}\r\n%s" % (len(key.pem), key.pem)) for key in keys[i:i + 100]])


def remove(client, key):
    put(client, [(key.entry, b"NIL")])


# -- a device --------------------------------------------------------------------------------------

class Sync:
    """XKEYSYNC, and the list that it keeps. A packet's events must be in order, each must be news, and a key must have the
    fingerprint under which it is removed later."""

    DONE = b"OK xkeysync complete"

    def __init__(self, client, *known):
        self.client = client
        self.known = set(known)
        self.tag = client.start(b" ".join((b"XKEYSYNC",) + known))
        self.events = []

    def event(self, line):
        """Returns ("created" or "deleted", fingerprint)."""
        m = DELETED.match(line)
        if m:
            self.known.remove(m[1])
            return "deleted", m[1]
        m = CREATED.match(line)
        assert m and int(m[1]) == len(m[2]), line
        der = base64.b64decode(b"".join(m[2].splitlines()[1:-1]))
        # SEQUENCE { AlgorithmIdentifier, BIT STRING { no unused bits, RSAPublicKey } }
        public = der[der.index(b"\x00", der.index(RSA_ENCRYPTION) + len(RSA_ENCRYPTION)) + 1:]
        key = Key(public)
        assert key.pem == m[2]
        assert key.fpr not in self.known
        self.known.add(key.fpr)
        return "created", key.fpr

    def packet(self, first=False):
        """Reads a packet; returns its events: what and fingerprint. The first one ends with "+ OK", and need not have any."""
        events = []
        while True:
            line = self.client.read_response().line
            if line in (b"* XKEYSYNC OK", b"+ OK"):
                break
            if line == b"* OK still syncing":
                # not in a packet
                assert not events and not first
                continue
            events.append(self.event(line))
        # this line comes if there was something before it
        assert (line == b"* XKEYSYNC OK") == bool(events)
        if first and events:
            line = self.client.read_response().line
        assert (line == b"+ OK") == first
        assert [fpr for _, fpr in events] == sorted({fpr for _, fpr in events})
        self.events += events
        return events

    def first(self):
        return self.packet(first=True)

    def until(self, known):
        """Packets until the list is this one."""
        known = {key.fpr for key in known}
        while self.known != known:
            self.packet()
        return self

    def done(self):
        self.client.send(b"DONE\r\n")
        assert tagged(self.client, self.tag) == self.DONE
        return self


def devices(client):
    """What a client that knows nothing is told: the fingerprints."""
    s = Sync(client)
    s.first()
    s.done()
    return s.known
