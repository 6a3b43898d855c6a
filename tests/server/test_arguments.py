"""How the framework reads a command line: literals of all sizes and kinds, limits, and lines that are wrong. The
test plugin's XTESTARGS tells what it was given: depth, type, length, CRC32."""

import binascii

import pytest

from metasync import ask, last, lines_until, sane

LIMIT = 1048576


@pytest.fixture(scope="module")
def place(make_module_server):
    return make_module_server(plugin={"long_command_test_literal": str(LIMIT),
                                      "imap_long_command_input_timeout": "2s"})


@pytest.fixture
def c(place, user):
    client = place.login(user)
    yield client
    client.close()


def told(kind, data, depth=0):
    return b"* XTESTARGS %d %s %d %08x" % (depth, kind, len(data), binascii.crc32(data))


def test_all_kinds(c):
    lines = ask(c, b'XTESTARGS atom "quo\\"ted" NIL (in (deeper)) {3+}\r\nlit ~{4+}\r\nl\0t8 ""')
    assert lines == [told(b"atom", b"atom"), told(b"string", b'quo"ted'), b"* XTESTARGS 0 nil 0 00000000",
                     b"* XTESTARGS 0 list", told(b"atom", b"in", 1), b"* XTESTARGS 1 list",
                     told(b"atom", b"deeper", 2), told(b"string", b"lit"), told(b"string8", b"l\0t8"),
                     told(b"string", b""), b"T OK XTESTARGS completed."]


def test_nothing(c):
    assert ask(c, b"XTESTARGS") == [b"T OK XTESTARGS completed."]


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, LIMIT])
@pytest.mark.parametrize("form", [b"{%d}", b"{%d+}", b"~{%d}", b"~{%d+}"])
def test_literals(c, form, size):
    data = bytes((i * 7) % 251 + 1 for i in range(size))
    announcement = form % size
    tag = c.start(b"XTESTARGS before " + announcement)
    if b"+" not in announcement:
        assert c.read_response().tag == b"+"
    c.send(data + b" after\r\n")
    kind = b"string8" if form.startswith(b"~") else b"string"
    assert lines_until(c, tag) == [told(b"atom", b"before"), told(kind, data), told(b"atom", b"after"),
                                   b"T OK XTESTARGS completed."]
    sane(c)


def test_in_small_packets(c):
    """The line is split at each byte once."""
    line = b"XTESTARGS a {5+}\r\nx\r\ny\0 ({2+}\r\n{9) \"q\"\r\n"
    expected = None
    for at in range(1, len(line)):
        tag = b"t%d" % at
        c.send(tag + b" " + line[:at])
        c.send(line[at:])
        lines = lines_until(c, tag)
        expected = expected or lines
        assert lines == expected and len(lines) == 6, at
    c.send(b"one ")
    for i in range(len(line)):
        c.send(line[i:i + 1])
    assert lines_until(c, b"one") == expected


def test_over_the_limit(c):
    text = b"T NO [LIMIT] More than %d." % LIMIT
    # refused before "+"
    assert ask(c, b"XTESTARGS {%d}" % (LIMIT + 1)) == [text]
    sane(c)
    # read and dropped, with what comes after it, also if that looks like a command
    for after in (b"", b" more {3+}\r\nabc", b" {10+}\r\nx NOOP\r\n\r\n"):
        data = b"x" * (LIMIT + 1)
        assert ask(c, b"XTESTARGS {%d+}\r\n%s%s" % (len(data), data, after)) == [text]
        sane(c)
    # the same, but then one that would be waited for
    assert ask(c, b"XTESTARGS {%d+}\r\n%s {3}" % (len(data), data)) == [text]
    sane(c)


def test_too_much_altogether(c):
    data = b"x" * LIMIT
    parts = b" ".join(b"{%d+}\r\n%s" % (len(data), data) for _ in range(20))
    assert ask(c, b"XTESTARGS " + parts) == [b"T NO [LIMIT] Too much altogether."]
    sane(c)
    # a synchronizing one that would be too much is not asked for
    tag = c.start(b"XTESTARGS " + b" ".join([parts[:len(parts) // 20]] * 15) + b" {%d}" % LIMIT)
    assert lines_until(c, tag) == [b"T NO [LIMIT] Too much altogether."]
    sane(c)


@pytest.mark.parametrize("arguments", [
    b"{abc}", b"{-1}", b"{}", b"{5", b"{99999999999999999999}", b"{99999999999999999999+}", b"{5+} x",
    b'"x{3+}\r\nabc', b"foo{3+}\r\nabc", b"(", b")", b"(a", b"a)", b'"open', b"nul\0byte", b'"nul\0byte"',
    b"a" * 70000, b'"%s"' % (b"a" * 200000), b"(" * 70000,
])
def test_wrong_lines(c, arguments):
    lines = ask(c, b"XTESTARGS " + arguments)
    assert lines[-1].startswith(b"T BAD "), lines
    sane(c)


def test_quoted_line_end_that_looks_like_a_literal(c):
    """The client that sent it waits for "+"; it gets one, and then its mistake is told."""
    tag = c.start(b'XTESTARGS "x{3}')
    assert c.read_response().tag == b"+"
    c.send(b"abc\r\n")
    assert lines_until(c, tag)[-1].startswith(b"T BAD ")
    sane(c)


@pytest.mark.parametrize("sent", [b"", b"{5}\r\n", b"{5+}\r\nab", b"{5+}\r\nabcde", b"half a line"])
@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
def test_the_connection_ends_in_the_arguments(c, place, user, sent, end):
    c.send(b"x1 XTESTARGS " + sent)
    getattr(c, end)()
    if end == "half_close":
        c.eof()
    sane(place.login(user))


@pytest.mark.parametrize("sent", [b"", b"{5}\r\n", b"{5+}\r\nab", b"half a line"])
def test_the_rest_never_comes(c, sent):
    c.send(b"x1 XTESTARGS " + sent)
    lines = [r.line for r in c.eof()]
    assert lines[-1] == b"* BYE Disconnected for inactivity."


def test_literal_minus(make_module_server, user):
    """RFC 7888: non-synchronizing literals have at most 4096 octets."""
    server = make_module_server(extra="imap_literal_minus = yes\n")
    c = server.login(user)
    data = b"x" * 4096
    assert ask(c, b"XTESTARGS {4096+}\r\n" + data)[0] == told(b"string", data)
    assert last(c, b"XTESTARGS {4097+}\r\n%sx" % data).startswith(b"T BAD ")
    sane(c)


def test_pipelined(c):
    c.send(b"p1 XTESTARGS {2+}\r\nab\r\np2 XTESTARGS c\r\np3 NOOP\r\n")
    assert lines_until(c, b"p1") == [told(b"string", b"ab"), b"T OK XTESTARGS completed."]
    assert lines_until(c, b"p2") == [told(b"atom", b"c"), b"T OK XTESTARGS completed."]
    assert lines_until(c, b"p3") == [b"T OK NOOP completed."]


def test_too_many_lists(c):
    """Each costs the parser memory; the line's limit does not hold where literals begin new lines."""
    line = b"(" * 60000 + b" {1+}\r\nx"
    c.send(b"many XTESTARGS " + line * 100 + b"\r\n")
    assert lines_until(c, b"many")[-1].startswith(b"T BAD ")
    assert ask(c, b"XTESTARGS " + b"(" * 900 + b"x" + b")" * 900)[-1] == b"T OK XTESTARGS completed."
    sane(c)
