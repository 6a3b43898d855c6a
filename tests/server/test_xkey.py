"""XKEYSYNC and XKEYADD, rule by rule (docs/xkey.md)."""

import base64
import re
import threading

import pytest

from lifecycle import deliver
from lifecycle_matrix import SHARED
from metasync import Watch, ask, last, put, sane
from xkey import (DIR, RSA_ENCRYPTION, Key, Sync, add, added, devices, fill, generate, integer, key_of, make_key, make_keys,
                  moduli, must_add, openssl, pem, public_of, remove, rsa_der, spki, tagged, tlv)

INVALID = b"NO invalid public key"
FULL = b"NO max devices already reached"
DUPLICATE = b"NO duplicate public key"
NO_FPR = b"BAD Error in IMAP command XKEYSYNC: invalid fingerprint"
# keys that nobody changes
KEYS = sorted(make_keys(12), key=lambda key: key.fpr)
A, B, C, D = KEYS[:4]


# -- capability ------------------------------------------------------------------------------------

@pytest.mark.parametrize("login", [b"LOGIN %s pass", b"AUTHENTICATE PLAIN %s"], ids=["login", "authenticate"])
def test_capability_is_in_the_answer_to_the_login(client, user, login):
    c = client(user, login=False, greeting=False)
    greeting = c.read_response().line
    assert greeting.startswith(b"* OK [CAPABILITY ") and b" LITERAL+ " in greeting and b"XKEY" not in greeting
    name = user.encode()
    if b"PLAIN" in login:
        name = base64.b64encode(b"\0%s\0pass" % name)
    # nothing untagged before it or after it
    line = c.next(c.start(login % name) + b" ").line
    capabilities = re.match(rb"\S+ OK \[CAPABILITY ([^]]*)\] Logged in", line)[1].split()
    assert {b"XKEY", b"ENABLE", b"UNSELECT", b"IDLE", b"UIDPLUS", b"QRESYNC", b"CONDSTORE"} <= set(capabilities)
    sane(c)


def test_needs_a_login(client, user):
    c = client(user, login=False)
    for command in (b"XKEYSYNC", b"XKEYADD x"):
        assert last(c, command).startswith(b"T BAD ")


def test_a_user_without_the_plugin(make_server, user):
    server = make_server(plugin={"metasync_enabled": "no"})
    c = server.login(user)
    assert b"XKEY" not in ask(c, b"CAPABILITY")[0]
    for command in (b"XKEYSYNC", b"XKEYADD x"):
        assert last(c, command) == b"T BAD Error in IMAP command %s: Unknown command." % command.split()[0]
    sane(c)


# -- XKEYADD ---------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_add(client, user):
    c = client(user)
    assert add(c, A.pem) == added(A)
    assert add(c, A.pem) == DUPLICATE
    assert add(c, B.pem) == added(B)
    assert devices(c) == {A.fpr, B.fpr}


def test_add_by_each_kind_of_string(client, user):
    c = client(user)
    tag = c.start(b"XKEYADD {%d}" % len(A.pem))
    c.next(rb"\+ ")
    c.send(A.pem + b"\r\n")
    assert tagged(c, tag) == added(A)
    # a quoted string has no line breaks
    assert last(c, b'XKEYADD "%s"' % B.pem.replace(b"\n", b" ")) == b"T %s." % INVALID
    assert last(c, b"xkeyadd {%d+}\r\n%s" % (len(C.pem), C.pem)) == b"T %s." % added(C)
    assert devices(c) == {A.fpr, C.fpr}


def test_add_commands_in_one_packet(client, user):
    c = client(user)
    c.send(b"".join(b"%d XKEYADD {%d+}\r\n%s\r\n" % (i, len(key.pem), key.pem) for i, key in enumerate((A, B, A))))
    assert [tagged(c, b"%d" % i) for i in range(3)] == [added(A), added(B), DUPLICATE]


@pytest.mark.parametrize("args, error", [
    (b"", b"invalid key"), (b" ()", b"invalid key"), (b" (a)", b"invalid key"), (b" () b", b"invalid key"),
    (b" a b", b"extra args"), (b" a NIL", b"extra args"), (b' "" ()', b"extra args"),
    (b" {1025}", b"invalid key; too long"), (b" {1025+}\r\n" + b"x" * 1025, b"invalid key; too long"),
    (b" {99999999}", b"invalid key; too long"), (b" {99999+}\r\n" + b"\r\n" * 49999 + b"x", b"invalid key; too long"),
    (b' "%s"' % (b"x" * 1025), b"invalid key; too long"), (b" " + b"x" * 1025, b"invalid key; too long"),
    (b" a {1025+}\r\n" + b"x" * 1025, b"invalid key; too long")],
    ids=lambda value: value[:12].decode("latin-1").strip() if isinstance(value, bytes) else None)
def test_add_wrong_arguments(client, user, args, error):
    c = client(user)
    assert last(c, b"XKEYADD" + args) == b"T BAD Error in IMAP command XKEYADD: %s." % error
    sane(c)
    assert devices(c) == set()


@pytest.mark.valgrind
@pytest.mark.parametrize("args", [
    b"NIL", b'""', b"{0+}\r\n", b"x", b"{3+}\r\na\0b", b"{3+}\r\na\xffb", b"{%d+}\r\n%s" % (len(A.pem) + 1, A.pem + b"\0"),
    b"{%d+}\r\n%s" % (len(A.pem) + 3, b"\xc3\xa4\n" + A.pem), b"~{3+}\r\na\0b", b"{1024+}\r\n" + b"x" * 1024],
    ids=["NIL", "empty", "empty-literal", "atom", "NUL", "8-bit", "key-NUL", "key-8-bit", "literal8", "1024"])
def test_add_what_is_no_key(client, user, args):
    c = client(user)
    assert last(c, b"XKEYADD " + args) == b"T %s." % INVALID
    sane(c)


@pytest.mark.valgrind
@pytest.mark.parametrize("bits", [2048, 4096])
def test_rsa(client, user, bits):
    """A true key; libcrypto's program says what its fingerprint is."""
    text = public_of(generate("RSA", "-pkeyopt", "rsa_keygen_bits:%d" % bits))
    key = key_of(text)
    c = client(user)
    assert add(c, text) == added(key)
    s = Sync(c)
    assert s.first() == [("created", key.fpr)]
    s.done()
    # as openssl has written it
    assert key.pem == text


PRIVATE = {
    "pkcs8": lambda rsa: rsa,
    "pkcs1": lambda rsa: openssl("rsa", "-traditional", data=rsa),
    "encrypted": lambda rsa: openssl("pkcs8", "-topk8", "-passout", "pass:x", data=rsa),
    "encrypted-pkcs1": lambda rsa: openssl("rsa", "-traditional", "-aes128", "-passout", "pass:x", data=rsa),
    "after-a-public-key": lambda rsa: make_key().pem + b"-----BEGIN PRIVATE KEY-----\n",
    "before-a-public-key": lambda rsa: generate("ED25519") + make_key().pem}
# all of them valid, but none is an RSA public key
OTHERS = {
    "ec": lambda: public_of(generate("EC", "-pkeyopt", "ec_paramgen_curve:P-256")),
    "ed25519": lambda: public_of(generate("ED25519")),
    "x25519": lambda: public_of(generate("X25519")),
    "rsa-pss": lambda: public_of(generate("RSA-PSS", "-pkeyopt", "rsa_keygen_bits:1024")),
    "pkcs1": lambda: pem(rsa_der(next(moduli())), b"RSA PUBLIC KEY"),
    "certificate": lambda: pem(spki(rsa_der(next(moduli()))), b"CERTIFICATE")}
DER = spki(rsa_der(next(moduli())))
GARBAGE = {
    "base64": lambda: pem(b"\x5a" * 300), "half": lambda: pem(DER[:-20]), "longer": lambda: pem(DER + b"\0"),
    "no-bit-string": lambda: pem(tlv(0x30, DER[3:23])), "empty": lambda: pem(b""),
    "not-base64": lambda: A.pem.replace(b"\nMI", b"\n!!"),
    "no-end": lambda: A.pem.rpartition(b"-----END")[0], "other-end": lambda: A.pem.replace(b"END PUBLIC", b"END RSA PUBLIC"),
    "encrypted": lambda: A.pem.replace(b"-----\n", b"-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1),
    "der": lambda: DER.replace(b"\0", b"").translate(None, bytes(range(128, 256))),
    "even-modulus": lambda: Key(rsa_der(next(moduli()) & ~1)).pem, "small-factor": lambda: Key(rsa_der(next(moduli()) * 9)).pem,
    "exponent-1": lambda: Key(rsa_der(next(moduli()), 1)).pem, "even-exponent": lambda: Key(rsa_der(next(moduli()), 65538)).pem,
    "no-parameters": lambda: pem(spki(rsa_der(next(moduli())), tlv(0x30, RSA_ENCRYPTION[2:-2]))),
    "other-parameters": lambda: pem(spki(rsa_der(next(moduli())), tlv(0x30, RSA_ENCRYPTION[2:-2] + tlv(4, b"")))),
    "long-integer": lambda: pem(spki(tlv(0x30, integer(next(moduli())) + tlv(2, b"\0\1\0\1")))),
    "more-in-the-key": lambda: pem(spki(rsa_der(next(moduli())) + b"\0")),
    "unused-bits": lambda: pem(spki(rsa_der(next(moduli()))).replace(b"\x03\x81\x8d\0", b"\x03\x81\x8d\1")),
    # 2**1279 - 1 is a prime
    "prime": lambda: Key(rsa_der(2 ** 1279 - 1)).pem}


@pytest.fixture(scope="module")
def rsa():
    """A private key whose PEM is not too long."""
    return generate("RSA", "-pkeyopt", "rsa_keygen_bits:512")


@pytest.mark.parametrize("kind", PRIVATE)
def test_private_keys(client, user, rsa, kind):
    text = PRIVATE[kind](rsa)
    assert b"PRIVATE KEY" in text and len(text) <= 1024
    c = client(user)
    assert add(c, text) == INVALID
    assert devices(c) == set()


@pytest.mark.parametrize("kind", OTHERS)
def test_other_keys(client, user, kind):
    c = client(user)
    assert add(c, OTHERS[kind]()) == INVALID
    assert devices(c) == set()


@pytest.mark.valgrind
@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage(client, user, kind):
    text = GARBAGE[kind]()
    assert 0 < len(text) <= 1024
    c = client(user)
    assert add(c, text) == INVALID
    sane(c)
    assert devices(c) == set()


def test_size(client, user):
    """1024 octets as received, whatever they are."""
    c = client(user)
    for key, text in ((A, A.pem.ljust(1024)), (B, B.pem.rjust(1024, b"\n")), (C, b"x\n" * 200 + C.pem)):
        assert len(text) <= 1024
        assert add(c, text) == added(key)
    for text in (D.pem.ljust(1025), D.pem.rjust(1025, b"\n")):
        assert add(c, text) == b"BAD Error in IMAP command XKEYADD: invalid key; too long"
    assert devices(c) == {A.fpr, B.fpr, C.fpr}


@pytest.mark.parametrize("change", [
    lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"Here it is:\r\n\r\n" + text + b"-- \nAnn\n",
    lambda text: text.rstrip(), lambda text: b"\n\n" + text,
    lambda text: pem(base64.b64decode(b"".join(text.split(b"\n")[1:-2])), line=76),
    lambda text: text.replace(b"\n", b" \n"), lambda text: OTHERS["pkcs1"]() + text],
    ids=["CRLF", "text", "no-last-LF", "empty-lines", "long-lines", "blanks", "another-block"])
def test_what_is_stored_is_normal(client, user, change):
    c = client(user)
    text = change(A.pem)
    assert text != A.pem
    assert add(c, text) == added(A)
    assert add(c, A.pem) == DUPLICATE
    assert Watch(c, b'"" ' + DIR).catch_up().done().state == {(b"", A.entry): A.pem}


def test_several_keys_in_one_text(client, user):
    """The first one counts, what follows is text around it."""
    c = client(user)
    assert add(c, A.pem + B.pem) == added(A)
    assert add(c, B.pem + A.pem) == added(B)
    assert add(c, OTHERS["ec"]() + C.pem) == INVALID
    assert add(c, C.pem + OTHERS["ec"]()) == added(C)
    assert devices(c) == {A.fpr, B.fpr, C.fpr}


@pytest.mark.valgrind
def test_limit(client, user):
    c = client(user)
    must_add(c, *KEYS[:10])
    assert add(c, KEYS[10].pem) == FULL
    # before duplicate, after invalid
    assert add(c, KEYS[0].pem) == FULL
    assert add(c, b"x") == INVALID
    remove(c, KEYS[3])
    assert add(c, KEYS[0].pem) == DUPLICATE
    assert add(c, KEYS[10].pem) == added(KEYS[10])
    assert add(c, KEYS[3].pem) == FULL


@pytest.fixture(scope="module")
def limited(make_module_server):
    """A server whose users' names say how many devices they may have."""
    return make_module_server(userdb="imap_xkey_max_devices=%u")


@pytest.mark.parametrize("setting, limit", [("1", 1), ("3", 3), ("0", 10), ("ten", 10), ("1001", 10)])
def test_limit_is_a_setting(limited, setting, limit):
    c = limited.login(setting)
    must_add(c, *KEYS[:limit])
    assert add(c, KEYS[limit].pem) == FULL
    assert ("imap_xkey_max_devices: Must be 1 .. 1000, not %s - using 10" % setting in limited.log()) == \
        (setting != str(limit))


def test_limit_was_lowered(client, user):
    """What is above it stays, and is told."""
    c = client(user)
    fill(c, KEYS)
    assert devices(c) == {key.fpr for key in KEYS}
    assert add(c, make_key().pem) == FULL
    for key in KEYS[:2]:
        remove(c, key)
    assert add(c, make_key().pem) == FULL
    remove(c, KEYS[2])
    assert add(c, KEYS[0].pem) == added(KEYS[0])


def test_limits_of_the_store(make_server, user):
    server = make_server(plugin={"metasync_limit_entries": "2"})
    c = server.login(user)
    must_add(c, A, B)
    assert add(c, C.pem) == b"NO [METADATA TOOMANY] Too many entries"
    sane(c)
    assert devices(c) == {A.fpr, B.fpr}


# -- XKEYSYNC --------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_first_packet(client, user):
    """The merge of both lists, in order."""
    c = client(user)
    s = Sync(c)
    assert s.first() == []
    s.done()
    must_add(c, A, C)
    s = Sync(c, D.fpr, B.fpr)
    assert s.first() == [("created", A.fpr), ("deleted", B.fpr), ("created", C.fpr), ("deleted", D.fpr)]
    s.done()
    s = Sync(c, C.fpr, A.fpr)
    assert s.first() == []
    s.done()


@pytest.mark.valgrind
def test_transcript(client, user):
    """To the octet."""
    c, d = client(user), client(user)
    must_add(d, A)
    c.send(b"1 XKEYSYNC %s %s\r\n" % (B.fpr, C.fpr))
    expected = [b"* XKEYSYNC CREATED {%d}\r\n%s" % (len(A.pem), A.pem), b"* XKEYSYNC DELETED " + B.fpr,
                b"* XKEYSYNC DELETED " + C.fpr, b"* XKEYSYNC OK", b"+ OK"]
    assert [c.read_response().line for _ in expected] == expected
    must_add(d, B)
    expected = [b"* XKEYSYNC CREATED {%d}\r\n%s" % (len(B.pem), B.pem), b"* XKEYSYNC OK"]
    assert [c.read_response().line for _ in expected] == expected
    remove(d, A)
    expected = [b"* XKEYSYNC DELETED " + A.fpr, b"* XKEYSYNC OK"]
    assert [c.read_response().line for _ in expected] == expected
    c.send(b"DONE\r\n2 NOOP\r\n")
    assert re.fullmatch(rb"1 OK xkeysync complete \([0-9.+ ]+ secs\)\.", c.read_response().line)
    assert c.read_response().line.startswith(b"2 OK ")


@pytest.mark.valgrind
def test_a_client_session(client, user):
    """What the client does, in its order and in its packets."""
    c = client(user)
    sane(c)
    d = client(user, login=False)
    d.send(b"1 LOGIN %s pass\r\n2 XKEYSYNC %s %s\r\nDONE\r\n" % (user.encode(), A.fpr, B.fpr))
    assert d.read_response().line.startswith(b"1 OK [CAPABILITY ")
    expected = [b"* XKEYSYNC DELETED " + A.fpr, b"* XKEYSYNC DELETED " + B.fpr, b"* XKEYSYNC OK", b"+ OK"]
    assert [d.read_response().line for _ in expected] == expected
    assert tagged(d, b"2") == Sync.DONE
    must_add(d, A)
    s = Sync(d, A.fpr)
    assert s.first() == []
    must_add(c, C)
    assert s.packet() == [("created", C.fpr)]


def test_one_key_listed_twice_or_in_upper_case(client, user):
    c = client(user)
    must_add(c, A)
    for known in ((A.fpr, A.fpr), (A.fpr.upper(),), (A.fpr, A.fpr.upper(), A.fpr)):
        s = Sync(c, *known)
        s.known = {A.fpr}
        assert s.first() == []
        s.done()
    s = Sync(c, B.fpr.upper(), B.fpr, A.fpr)
    assert s.first() == [("deleted", B.fpr)]


@pytest.mark.valgrind
def test_fingerprints_as_strings(client, user):
    c = client(user)
    must_add(c, A, B)
    s = Sync(c, b'"%s"' % A.fpr, b"{64+}\r\n%s" % B.fpr)
    s.known = {A.fpr, B.fpr}
    assert s.first() == []
    s.done()


@pytest.mark.parametrize("args", [
    b"x", A.fpr[1:], A.fpr + b"0", b'""', b"NIL", b"()", b"(%s)" % A.fpr, b"%s x" % A.fpr, b"x %s" % A.fpr,
    b"{65}", b"{65+}\r\n%s0" % A.fpr, b"{64+}\r\n%s\0" % A.fpr[1:], b"{64+}\r\n\0%s" % A.fpr[1:],
    b"{99999+}\r\n" + b"x" * 99999],
    ids=["short", "63", "65", "empty", "NIL", "list", "in-a-list", "second", "first", "literal", "literal+", "NUL", "NUL-first",
         "long"])
def test_wrong_fingerprints(client, user, args):
    c = client(user)
    assert last(c, b"XKEYSYNC " + args) == b"T %s." % NO_FPR
    sane(c)


@pytest.mark.parametrize("fpr, told", [
    (b"z" * 64, b"z" * 64), (b"{64+}\r\n" + b"a b" * 21 + b"c", b'"%sc"' % (b"a b" * 21)),
    (b"{64+}\r\n" + b"\r\nz OK" * 10 + b"wxyz", b"{64}\r\n" + b"\r\nz ok" * 10 + b"wxyz"),
    (b"{64+}\r\n" + b"\xc3\xa4" * 32, b"{64}\r\n" + b"\xc3\xa4" * 32), (b"{64+}\r\n" + b'"' * 64, b'{64}\r\n' + b'"' * 64)],
    ids=["letters", "spaces", "lines", "8-bit", "quotes"])
def test_what_cannot_be_a_fingerprint(client, user, fpr, told):
    """It has the right length: there is no such key. It is written so that it is not taken for something else."""
    c = client(user)
    tag = c.start(b"XKEYSYNC " + fpr)
    lines = [c.read_response().line for _ in range(3)]
    assert lines[0].replace(b'\\"', b'"') in (b"* XKEYSYNC DELETED " + told, b'* XKEYSYNC DELETED "%s"' % (b'"' * 64))
    assert lines[1:] == [b"* XKEYSYNC OK", b"+ OK"]
    c.send(b"DONE\r\n")
    assert tagged(c, tag) == Sync.DONE


def test_a_thousand_fingerprints(client, user):
    """There is room for as many as there may be devices; not for any number."""
    c = client(user)
    must_add(c, A)
    known = sorted({b"%064x" % i for i in range(1000)} | {A.fpr})[:1000]
    s = Sync(c, *known)
    assert s.first() == sorted([("deleted", fpr) for fpr in known if fpr != A.fpr] +
                               ([] if A.fpr in known else [("created", A.fpr)]), key=lambda event: event[1])
    s.done()
    tag = c.start(b"XKEYSYNC" + b" {64+}\r\n%s" % A.fpr * 1000)
    assert tagged(c, tag) == b"NO [LIMIT] Command is too large"
    sane(c)


@pytest.mark.parametrize("line", [b"DONE", b"done", b"DoNe"])
def test_done_with_the_command(client, user, line):
    """It is held until the first packet is told."""
    c = client(user)
    must_add(c, A)
    c.send(b"1 XKEYSYNC %s\r\n%s\r\n2 XKEYSYNC\r\n%s\r\n3 NOOP\r\n" % (B.fpr, line, line))
    created = b"* XKEYSYNC CREATED {%d}\r\n%s" % (len(A.pem), A.pem)
    events = sorted([(A.fpr, created), (B.fpr, b"* XKEYSYNC DELETED " + B.fpr)])
    expected = [text for _, text in events] + [b"* XKEYSYNC OK", b"+ OK"]
    assert [c.read_response().line for _ in expected] == expected
    assert tagged(c, b"1") == Sync.DONE
    expected = [created, b"* XKEYSYNC OK", b"+ OK"]
    assert [c.read_response().line for _ in expected] == expected
    assert tagged(c, b"2") == Sync.DONE
    assert tagged(c, b"3").startswith(b"OK ")


@pytest.mark.parametrize("line", [b"", b"DON", b"DONE ", b" DONE", b"1 NOOP", b"x" * 100000, b"a {5+}\r\nDONE\r"],
                         ids=["empty", "DON", "blank-after", "blank-before", "command", "long", "literal"])
@pytest.mark.parametrize("when", ["with the command", "later"])
def test_any_other_line(client, user, line, when):
    c = client(user)
    must_add(c, A)
    command = b"9 XKEYSYNC\r\n"
    if when == "later":
        c.send(command)
    else:
        c.send(command + line + b"\r\n")
    for expected in (b"* XKEYSYNC CREATED {%d}\r\n%s" % (len(A.pem), A.pem), b"* XKEYSYNC OK", b"+ OK"):
        assert c.read_response().line == expected
    if when == "later":
        c.send(line + b"\r\n")
    assert tagged(c, b"9") == b"BAD expected DONE"
    # the line was not run as a command
    sane(c)


def test_keepalive(make_server, user):
    server = make_server(extra="imap_idle_notify_interval = 1s\n")
    c = server.login(user)
    s = Sync(c)
    s.first()
    for _ in range(2):
        assert c.read_response().line == b"* OK still syncing"
    s.done()


@pytest.mark.valgrind
def test_nothing_else_is_told(make_server, user):
    """Not what happens in the selected mailbox, nor to other entries: only the keepalive comes."""
    server = make_server(extra="imap_idle_notify_interval = 1s\n", plugin={"long_command_test_path": "%h/wake"})
    c, d = server.login(user), server.login(user)
    assert last(c, b"SELECT INBOX").startswith(b"T OK")
    s = Sync(c)
    s.first()
    deliver(server, user)
    put(d, [(b"/private/vendor/example/a", b'"1"'), (b"/private/vendor/dovetail/xkeys/a", b'"1"')])
    for _ in range(2):
        assert c.read_response().line == b"* OK still syncing"
    must_add(d, A)
    assert s.packet() == [("created", A.fpr)]
    s.done()
    # the next command tells it
    assert b"* 1 EXISTS" in ask(c, b"NOOP")


@pytest.mark.valgrind
def test_removed_by_whom(server, client, user):
    """All waiting sessions are told at once, whoever removes it."""
    c = client(user)
    must_add(c, A, B, C, D)
    waiting = [Sync(client(user)) for _ in range(3)]
    for s in waiting:
        s.first()

    def doveadm(key):
        done = server.doveadm("metasync", "unset", "-u", user, "", key.entry.decode())
        assert (done.returncode, done.stderr) == (0, "")
    ways = [lambda key: remove(c, key),
            lambda key: last(c, b'SETMETADATA "" (%s NIL)' % key.entry)]
    if server.wrapper != "valgrind":
        ways.append(doveadm)
    for way, key in zip(ways, (A, B, C)):
        way(key)
        for s in waiting:
            assert s.packet() == [("deleted", key.fpr)]
    for s in waiting:
        s.done()


def test_several_changes_in_one_set(client, user):
    """One packet, in order."""
    c, d = client(user), client(user)
    must_add(c, B, D)
    s = Sync(d)
    s.first()
    put(c, [(key.entry, b"{%d+}\r\n%s" % (len(key.pem), key.pem)) for key in (C, A)] + [(D.entry, b"NIL"), (B.entry, b"NIL")])
    assert s.packet() == [("created", A.fpr), ("deleted", B.fpr), ("created", C.fpr), ("deleted", D.fpr)]


def test_accounts_are_independent(client, user):
    c, d = client(user), client(user + "-other")
    s = Sync(d)
    s.first()
    must_add(c, A)
    must_add(client(user + "-other"), B)
    assert s.packet() == [("created", B.fpr)]
    s.done()
    assert devices(c) == {A.fpr}
    assert add(d, A.pem) == added(A)


# -- one state -------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_xmetasync_tells_keys(client, user):
    c = client(user)
    w = Watch(client(user), b'"" ' + DIR).catch_up()
    must_add(c, A)
    w.until("marker")
    assert w.state == {(b"", A.entry): A.pem}
    assert last(c, b'GETMETADATA "" ' + A.entry).startswith(b"T OK")


def test_what_is_no_key_is_not_there(client, user):
    """Others can write what they like below XKEY's directory."""
    c, d = client(user), client(user)
    s = Sync(d)
    s.first()
    large = b"{3000+}\r\n" + C.pem.ljust(3000)
    junk = [(DIR, b'"1"'), (DIR + b"/x", b'"1"'), (DIR + b"/" + b"0" * 64, b'""'), (A.entry, b'"1"'),
            (A.entry + b"/x", b"{%d+}\r\n%s" % (len(A.pem), A.pem)), (B.entry, b"{%d+}\r\n%s" % (len(A.pem), A.pem)),
            (C.entry, large), (D.entry, b"~{%d+}\r\n%s" % (len(D.pem) + 1, D.pem + b"\0"))]
    ed = OTHERS["ed25519"]()
    junk += [(DIR + b"/" + Key(base64.b64decode(ed.split(b"\n")[1])[12:]).fpr, b"{%d+}\r\n%s" % (len(ed), ed))]
    put(c, junk)
    # it does not count, and is no duplicate
    must_add(c, *KEYS[4:10])
    s.until(KEYS[4:10])
    must_add(c, A, B, C, D)
    s.until(KEYS[:10])
    # neither is a key that is overwritten
    put(c, [(A.entry, b'"1"')])
    assert s.packet() == [("deleted", A.fpr)]
    put(c, [(A.entry, b"{%d+}\r\n%s" % (len(A.pem), A.pem))])
    assert s.packet() == [("created", A.fpr)]
    s.done()
    assert len(s.events) == 12
    assert devices(c) == s.known


def test_a_key_that_others_wrote_in_their_way(client, user):
    """It is told as XKEYADD would have stored it."""
    c = client(user)
    text = b"my key:\r\n" + A.pem.replace(b"\n", b"\r\n")
    put(c, [(A.entry, b"{%d+}\r\n%s" % (len(text), text))])
    s = Sync(c)
    assert s.first() == [("created", A.fpr)]
    s.done()
    assert add(c, A.pem) == DUPLICATE


def test_export_and_import(server, client, user):
    if server.wrapper:
        pytest.skip("doveadm's own tests are enough")
    must_add(client(user), A, B)
    lines = server.doveadm("metasync", "export", "-u", user).stdout
    d = client(user + "-copy")
    s = Sync(d, C.fpr)
    assert s.first() == [("deleted", C.fpr)]
    assert server.doveadm("metasync", "import", "-u", user + "-copy", "-", input=lines).returncode == 0
    assert s.packet() == [("created", A.fpr), ("created", B.fpr)]


# -- many ------------------------------------------------------------------------------------------

def at_once(clients, texts):
    """XKEYADD on each connection at the same moment; returns the replies."""
    start = threading.Barrier(len(clients))
    replies = [None] * len(clients)

    def run(i):
        start.wait()
        replies[i] = add(clients[i], texts[i])
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


CROWD = 100


@pytest.fixture(scope="module")
def crowd():
    return make_keys(CROWD)


def check_crowd(server, user, crowd, limit):
    """Exactly as many as there is room for; nobody else hears anything but that it is full."""
    waiting = Sync(server.login(user))
    waiting.first()
    replies = at_once([server.login(user) for _ in crowd], [key.pem for key in crowd])
    won = [key for key, reply in zip(crowd, replies) if reply == added(key)]
    assert len(won) == min(limit, CROWD)
    assert replies.count(FULL) == CROWD - len(won)
    waiting.until(won).done()
    assert {what for what, _ in waiting.events} == {"created"}
    assert devices(server.login(user)) == waiting.known


@pytest.mark.parametrize("limit", [10, 99, 1000])
def test_a_hundred_clients_add_at_once(limited, crowd, limit):
    check_crowd(limited, str(limit), crowd, limit)


def test_a_hundred_clients_of_one_process_add_at_once(make_server, crowd, user):
    check_crowd(make_server(extra=SHARED), user, crowd, 10)


def test_a_hundred_clients_add_the_same_key(server, user):
    replies = at_once([server.login(user) for _ in range(CROWD)], [A.pem] * CROWD)
    assert replies.count(added(A)) == 1 and replies.count(DUPLICATE) == CROWD - 1
    assert devices(server.login(user)) == {A.fpr}


@pytest.mark.parametrize("rounds", [1000])
def test_a_thousand_rounds(server, user, rounds):
    """Two clients add and remove while three wait: what is told is in order and true (Sync), and in the end all lists are
    what is there."""
    writers, keys = [server.login(user) for _ in range(2)], [KEYS[:6], KEYS[6:]]
    waiting = [Sync(server.login(user)) for _ in range(3)]
    stored = [set(), set()]
    end = make_key()
    errors = []

    def write(i):
        for n in range(rounds // 2):
            key = keys[i][n * 5 % 6]
            if key in stored[i]:
                remove(writers[i], key)
                stored[i].remove(key)
            elif add(writers[i], key.pem) == added(key):
                stored[i].add(key)
        # room for the last one
        for key in sorted(stored[i], key=lambda key: key.fpr)[4:]:
            remove(writers[i], key)
            stored[i].remove(key)

    def read(s):
        s.first()
        while end.fpr not in s.known:
            s.packet()

    def run(function, argument):
        try:
            function(argument)
        except BaseException as error:
            errors.append(error)
    readers = [threading.Thread(target=run, args=(read, s)) for s in waiting]
    threads = [threading.Thread(target=run, args=(write, i)) for i in range(2)]
    for thread in readers + threads:
        thread.start()
    for thread in threads:
        thread.join()
    must_add(writers[0], end)
    for thread in readers:
        thread.join()
    assert not errors, errors
    truth = {key.fpr for key in stored[0] | stored[1] | {end}}
    for s in waiting:
        assert s.known == truth
        assert len(s.events) > rounds / 20
        s.done()
    assert devices(writers[0]) == truth
