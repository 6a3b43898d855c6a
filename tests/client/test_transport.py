"""The client's connections (src/client/transport*.c), by a small driver program: to a real Dovecot through TLS, proxies and
people in the middle, and to peers that misbehave. Nothing of it depends on how fast the machine is: a peer is silent until
the client has given up."""

import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness.measure import measure
from harness.server import BUILD
from peers import Peer, forwarder, http_proxy, imap_login, lines, socks_proxy, take

DRIVER = BUILD + "/tests/client/transport-driver"
KEY = b"a key of the token service, 32 octets or more"
OAUTH2 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix=%s/keys/
username_attribute = email
"""
EXTRA = """\
auth_mechanisms = plain login cram-md5 oauthbearer xoauth2
auth_username_chars =
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
passdb {
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = %s/oauth2.conf
}
"""


@pytest.fixture(scope="module")
def dovecot(make_module_server):
    """With tokens that are signed by KEY."""
    root = Path(tempfile.mkdtemp(prefix="dt-oauth-", dir="/tmp"))
    try:
        root.chmod(0o755)
        (root / "keys/default/HS256").mkdir(parents=True)
        (root / "keys/default/HS256/default").write_bytes(base64.b64encode(KEY))
        (root / "oauth2.conf").write_text(OAUTH2 % root)
        yield make_module_server(tls=True, extra=EXTRA % root)
    finally:
        shutil.rmtree(root)


def word(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(user, key=KEY):
    """A JSON Web Token (RFC 7519)."""
    now = int(time.time())
    claims = {"email": user, "sub": user, "iat": now - 10, "exp": now + 3600}
    text = word(b'{"alg":"HS256","typ":"JWT"}') + b"." + word(json.dumps(claims).encode())
    return (text + b"." + word(hmac.new(key, text, hashlib.sha256).digest())).decode()


def arguments(values, sends=()):
    return [DRIVER] + ["%s=%s" % item for item in values.items()] + ["send=" + text for text in sends]


def run(sends=("a NOOP",), env=None, pass_fds=(), **values):
    """What the driver prints. By default it sends NOOP and waits for the answer."""
    values = {"host": "localhost", "user": "u1", "password": "pass", "until": "a OK", **values}
    values = {key: value for key, value in values.items() if value is not None}
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    result = subprocess.run(arguments(values, sends), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                            pass_fds=pass_fds, env=dict(environment, **(env or {})))
    out = result.stdout.decode(errors="replace")
    assert result.returncode == 0, (result.returncode, out[-1000:], result.stderr.decode(errors="replace")[-3000:])
    run.stderr = result.stderr.decode(errors="replace")
    return out


def works(**values):
    out = run(**values)
    assert out.startswith("connected\n") and "\na OK" in out, out
    return out


def fails(status, text="", **values):
    out = run(**values)
    assert "failed %s: " % status in out and text in out, out
    return out


def tls_arguments(server, kind):
    return {"tls": kind, "port": server.tls_port if kind == "imaps" else server.port}


# -- TLS

@pytest.mark.parametrize("kind", ["imaps", "starttls", "none"])
def test_tls(dovecot, kind):
    works(**tls_arguments(dovecot, kind), ca_file=dovecot.root + "/cert.pem")


def test_imaps_is_the_default(dovecot):
    works(port=dovecot.tls_port, ca_file=dovecot.root + "/cert.pem")


@pytest.mark.parametrize("values, port, tls", [
    ({}, 993, True), ({"port": 143}, 143, False), ({"tls": "imaps"}, 993, True), ({"tls": "starttls"}, 143, False),
    ({"tls": "imaps", "port": 143}, 143, True),
])
def test_ports_and_tls_if_nothing_is_said(dovecot, values, port, tls):
    """Through a proxy, since not everybody may listen there. Whatever it is, there is TLS, and the certificate is looked at."""
    seen = []
    with http_proxy(seen, to=dovecot.tls_port if tls else dovecot.port) as proxy:
        values = {**values, "proxy": "http://127.0.0.1:%d" % proxy.port}
        fails("tls", "self-signed", **values)
        works(**values, ca_file=dovecot.root + "/cert.pem")
    assert seen == ["localhost:%d" % port] * 2


@pytest.mark.parametrize("kind", ["imaps", "starttls"])
def test_certificates_are_checked(dovecot, kind, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "other.pem"],
                   check=True, capture_output=True)
    arguments = tls_arguments(dovecot, kind)
    fails("tls", "self-signed", **arguments)
    fails("tls", "self-signed", **arguments, ca_file=tmp_path / "other.pem")
    fails("tls", **arguments, ca_file=tmp_path / "missing.pem")
    (tmp_path / "junk.pem").write_text("junk\n")
    fails("tls", **arguments, ca_file=tmp_path / "junk.pem")
    works(**arguments, insecure=1)
    # but not the password
    fails("login", **arguments, insecure=1, password="wrong")


def test_name_in_the_certificate(dovecot):
    """The proxy finds the server under another name."""
    seen = []
    with socks_proxy(seen) as proxy:
        values = {"proxy": "socks5h://127.0.0.1:%d" % proxy.port, "port": dovecot.tls_port,
                  "ca_file": dovecot.root + "/cert.pem"}
        fails("tls", "imap.example", **values, host="imap.example")
        works(**values, host="localhost")
        works(**values, host="127.0.0.1")
    assert seen[0] == ("imap.example", dovecot.tls_port)


def test_starttls_is_required(dovecot):
    """Someone in the middle hides STARTTLS: the password is not sent."""
    sent = []

    def back(data):
        sent.append(data)
        return data
    with forwarder(dovecot.port, rewrite=lambda data: data.replace(b" STARTTLS", b""), back=back) as middle:
        fails("tls", port=middle.port, tls="starttls", insecure=1)
        assert not any(b"AUTHENTICATE" in data.upper() or b"LOGIN" in data.upper() for data in sent), sent
        # the same person is harmless if the user wants no TLS
        works(port=middle.port, tls="none")


@pytest.mark.parametrize("answer", [b"NO not now", b"BAD what?"])
def test_starttls_refused(answer):
    sent = []

    def serve(connection):
        connection.sendall(b"* OK hello\r\n")
        for line in lines(connection):
            sent.append(line)
            tag, _, command = line.partition(b" ")
            if command == b"STARTTLS":
                connection.sendall(tag + b" " + answer + b"\r\n")
            else:
                connection.sendall(b"* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\n" + tag + b" OK\r\n")
    with Peer(serve) as peer:
        fails("tls", answer[answer.index(b" ") + 1:].decode(), port=peer.port, tls="starttls")
    assert not any(b"AUTHENTICATE" in line for line in sent), sent


@pytest.mark.parametrize("words", [b"* CAPABILITY IMAP4rev1 AUTH=LOGIN\r\n", b"* OK hello again\r\n", b"A003 OK done\r\n", b"* NO",
                                   b"* X {1000}\r\n", b""])
def test_words_before_tls_do_not_count(dovecot, words):
    """Someone in the middle adds clear text to the answer that TLS begins after: it is not taken for the server's."""
    sent = []

    def serve(connection):
        connection.sendall(b"* OK hello\r\n")
        # octet by octet: nothing of TLS is read
        while True:
            line = b""
            while not line.endswith(b"\n"):
                line += take(connection, 1)
            tag, _, command = line.rstrip().partition(b" ")
            if command == b"STARTTLS":
                break
            connection.sendall(b"* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\n" + tag + b" OK done\r\n")
        connection.sendall(tag + b" OK begin\r\n" + words)
        with context.wrap_socket(connection, server_side=True) as inside:
            peer.connections.append(inside)
            for line in lines(inside):
                sent.append(line)
                inside.sendall(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + line.split()[0] + b" OK done\r\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(dovecot.root + "/cert.pem", dovecot.root + "/key.pem")
    with Peer(serve) as peer:
        if words:
            fails("network", port=peer.port, tls="starttls", insecure=1)
            assert sent == []
        else:
            run(port=peer.port, tls="starttls", insecure=1, until=None, timeout=2000)
            assert sent[0].endswith(b"CAPABILITY")


def test_preauth_does_not_avoid_starttls():
    """A greeting that says that all is well already: the connection would stay unencrypted."""
    def serve(connection):
        connection.sendall(b"* PREAUTH come in\r\n")
        for line in lines(connection):
            connection.sendall(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n" + line.split()[0] + b" OK done\r\n")
    with Peer(serve) as peer:
        fails("tls", port=peer.port, tls="starttls")
        works(port=peer.port, tls="none")


def test_no_tls_there(dovecot):
    fails("tls", port=dovecot.port, tls="imaps", insecure=1)


# -- logging in

def test_wrong_password(dovecot):
    out = fails("login", "AUTHENTICATIONFAILED", port=dovecot.port, tls="none", password="sesame-opens-not")
    assert "sesame" not in out


@pytest.mark.parametrize("user", ["with space", 'quo"te\\back', "jos\u00e9@example.com", "a%40b", "x'y;AUTH=ANONYMOUS",
                                  "p:w"])
def test_odd_names(dovecot, user):
    works(port=dovecot.port, tls="none", user=user)
    fails("login", port=dovecot.port, tls="none", user=user, password='o"d\\d@:/ p\u00e4ss')


@pytest.mark.parametrize("mechanism", ["PLAIN", "login", "LOGIN"])
def test_mechanism(dovecot, mechanism):
    works(port=dovecot.port, tls="none", mechanism=mechanism)


def test_mechanism_not_there(dovecot):
    fails("login", "no mechanism for this login: SCRAM-SHA-1", port=dovecot.port, tls="none", mechanism="SCRAM-SHA-1")
    fails("unsupported", "NONSENSE", port=dovecot.port, tls="none", mechanism="NONSENSE")


def test_refusal_that_may_pass():
    def serve(connection):
        connection.sendall(b"* OK hello\r\n")
        for line in lines(connection):
            tag, _, command = line.partition(b" ")
            if command == b"CAPABILITY":
                connection.sendall(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + tag + b" OK\r\n")
            else:
                connection.sendall(tag + b" NO [UNAVAILABLE] \x1b[31mBackend is \xffdown\r\n")
    with Peer(serve) as peer:
        fails("network", "[UNAVAILABLE] ?[31mBackend is ?down", port=peer.port, tls="none")


def test_bye():
    with Peer(lambda connection: connection.sendall(b"* BYE Too many connections\r\n")) as peer:
        fails("network", "Too many connections", port=peer.port, tls="none")


@pytest.mark.parametrize("command", ["echo pass", "printf pass", "printf 'pass\\r\\nmore\\n'",
                                     "echo pass; exec >&-; sleep 0.1", "echo pass; yes | head -c 100000",
                                     "(sleep 1000 2>/dev/null & echo $! >$FILE); echo pass"])
def test_password_command(dovecot, command, tmp_path):
    """Also with output after the first line, an output that is closed early, and a child that goes on."""
    child = tmp_path / "pid"
    works(port=dovecot.port, tls="none", password="not this", password_command=command, env={"FILE": str(child)})
    if child.exists():
        os.kill(int(child.read_text()), 15)


@pytest.mark.parametrize("command, text", [
    ("exit 3", "exit code 3"), ("echo pass; exit 1", "exit code 1"), ("kill -9 $$", "signal 9"),
    ("true", "no first line"), ("echo; echo pass", "no first line"), ("printf 'pa\\0ss\\n'", "not text"),
    ("printf 'pa\\rss\\n'", "not text"), ("no-such-command", "exit code 127"), ("yes", "more than a secret"),
    ("yes | tr -d '\\n'", "more than a secret"), ("head -c 70000 /dev/zero | tr '\\0' x", "more than a secret"),
])
def test_password_command_fails(dovecot, command, text):
    out = fails("login", "the password command: ", port=dovecot.port, tls="none", password_command=command)
    assert text in out


def test_password_command_says_why(dovecot):
    fails("login", port=dovecot.port, tls="none", password_command="echo the agent is locked >&2; exit 1")
    assert run.stderr == "the agent is locked\n"


def gone(pid):
    try:
        return Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_password_command_hangs(dovecot, tmp_path):
    """It is ended, and what it has started."""
    fails("login", "has not ended", port=dovecot.port, tls="none", timeout=300,
          password_command="echo $$ >%s/a; sh -c 'echo $$ >%s/b; sleep 1000; true' | cat" % (tmp_path, tmp_path))
    deadline = time.monotonic() + 20
    for pid in [int((tmp_path / name).read_text()) for name in "ab"]:
        while not gone(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_password_command_inherits_nothing(dovecot, tmp_path):
    # and the program has a descriptor that would be inherited
    with open("/dev/null") as f:
        works(port=dovecot.port, tls="none", pass_fds=[f.fileno()],
              password_command="ls /proc/self/fd >%s/fds; cat >%s/stdin; echo pass" % (tmp_path, tmp_path))
    # and the one by which ls reads the folder
    assert (tmp_path / "fds").read_text().split() == ["0", "1", "2", "3"]
    assert (tmp_path / "stdin").read_bytes() == b""


def netrc(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", [
    "machine localhost login u1 password pass\n",
    "machine other login u1 password no\nmachine LocalHost\n\tlogin u1\n\tpassword \"pass\" # comment\n",
    "machine localhost login u2 password no machine localhost password pass",
    "# machine localhost login u1 password no\ndefault login u1 account x password pass\n",
    "macdef init\nmachine localhost login u1 password no\n\nmachine localhost login u1 password \"pa\\ss\"\n",
])
def test_netrc(dovecot, text, tmp_path):
    works(port=dovecot.port, tls="none", password=None, netrc=netrc(tmp_path / "netrc", text))


@pytest.mark.parametrize("text", ["", "machine", "machine localhost", "machine localhost login u2 password pass\n",
                                  "machine other login u1 password pass\n", "machine localhost login u1 password",
                                  "machine localhost password pass login u2"])
def test_netrc_without(dovecot, text, tmp_path):
    fails("login", "no password for u1 on localhost", port=dovecot.port, tls="none", password=None,
          netrc=netrc(tmp_path / "netrc", text))


def test_netrc_that_cannot_be_used(dovecot, tmp_path):
    values = {"port": dovecot.port, "tls": "none", "password": None}
    good = "machine localhost login u1 password pass\n"
    fails("login", "chmod 600", **values, netrc=netrc(tmp_path / "open", good, 0o644))
    fails("login", "No such file", **values, netrc=tmp_path / "missing")
    fails("login", "not a regular file", **values, netrc=tmp_path)
    fails("login", "not a text", **values, netrc=netrc(tmp_path / "binary", good + "\0"))
    fails("login", "too large", **values, netrc=netrc(tmp_path / "large", good + "#" * 1100000))
    os.mkfifo(tmp_path / "fifo", 0o600)
    fails("login", "not a regular file", **values, netrc=tmp_path / "fifo")


@pytest.mark.parametrize("mechanism", [None, "OAUTHBEARER", "XOAUTH2", "xoauth2"])
def test_token(dovecot, mechanism):
    values = {"tls": "imaps", "port": dovecot.tls_port, "insecure": 1, "password": None, "mechanism": mechanism}
    works(**values, token_command="echo " + token("u1"))
    fails("login", "refuses the login", **values, token_command="echo " + token("u2"))
    out = fails("login", "refuses the login", **values, token_command="echo " + token("u1", b"another key"))
    assert token("u1")[:20] not in out
    fails("login", "the token command: it failed with exit code 1", **values, token_command="false")


@pytest.mark.parametrize("offered, secret, chosen", [
    ("PLAIN LOGIN XOAUTH2 OAUTHBEARER", "token_command", "OAUTHBEARER"), ("PLAIN LOGIN XOAUTH2", "token_command", "XOAUTH2"),
    ("OAUTHBEARER LOGIN PLAIN", "password_command", "PLAIN"), ("XOAUTH2 LOGIN", "password_command", "LOGIN"),
])
def test_the_best_mechanism_of_both_sides(offered, secret, chosen):
    tried = []

    def serve(connection):
        connection.sendall(b"* OK Hello\r\n")
        for line in lines(connection):
            tag, command, *words = line.decode().split(" ")
            if command == "CAPABILITY":
                offers = " ".join("AUTH=" + word for word in offered.split(" "))
                connection.sendall(("* CAPABILITY IMAP4rev1 SASL-IR %s\r\n%s OK Done\r\n" % (offers, tag)).encode())
            elif command == "AUTHENTICATE":
                tried.append(words[0])
                connection.sendall(tag.encode() + b" NO [AUTHENTICATIONFAILED] No\r\n")
    with Peer(serve) as peer:
        fails("login", "refuses the login", port=peer.port, tls="none", password=None, **{secret: "echo secret"})
    # a refused token is never sent as a password
    assert tried[0] == chosen and (secret == "password_command") == any(m in ("PLAIN", "LOGIN") for m in tried), tried


def test_token_mechanism_not_there(make_server):
    server = make_server()
    fails("login", "no mechanism for this login", port=server.port, tls="none", password=None, token_command="echo x")


@pytest.mark.parametrize("values, text", [
    ({"host": ""}, "host"), ({"host": "a/b"}, "host"), ({"host": "u@h"}, "host"), ({"host": "[::1]"}, "host"),
    ({"host": "a b"}, "host"), ({"host": "h\r\nx"}, "host"), ({"host": "127.0.0.1:143"}, "host"),
    ({"host": "x:y"}, "host"),
    ({"user": ""}, "user"), ({"user": "a\r\nb"}, "user"), ({"password": "a\nb"}, "password"),
    ({"password": None}, "password"),
    ({"mechanism": "A B"}, "mechanism"), ({"mechanism": ""}, "mechanism"),
    ({"mechanism": "PLAIN;AUTH=LOGIN"}, "mechanism"),
    ({"mechanism": "OAUTHBEARER"}, "token command"), ({"proxy": "ftp://x"}, "proxy"), ({"proxy": "nonsense"}, "proxy"),
    ({"host": None}, "host"), ({"user": None}, "user"),
])
def test_invalid(values, text):
    out = run(port=1, **values) if "port" not in values else run(**values)
    assert out.startswith("refused invalid: ") and text in out, out


# -- ways

def test_ipv6(dovecot):
    try:
        middle = forwarder(dovecot.port, "::1")
    except OSError:
        pytest.skip("no IPv6")
    with middle:
        works(host="::1", port=middle.port, tls="none")
        fails("tls", host="::1", port=middle.port, tls="starttls", ca_file=dovecot.root + "/cert.pem")


def test_proxies(dovecot):
    seen = []
    values = {"port": dovecot.tls_port, "ca_file": dovecot.root + "/cert.pem"}
    with socks_proxy(seen) as socks, http_proxy(seen) as http:
        socks_url, http_url = "socks5h://127.0.0.1:%d" % socks.port, "http://127.0.0.1:%d" % http.port
        out = works(**values, proxy=http_url)
        assert "X-Proxy" not in out
        assert seen.pop() == "localhost:%d" % dovecot.tls_port
        # from the environment, unless the account says otherwise
        works(**values, env={"ALL_PROXY": socks_url})
        assert seen.pop() == ("localhost", dovecot.tls_port)
        works(**values, env={"all_proxy": socks_url, "no_proxy": "localhost"})
        assert seen == []
        works(**values, env={"all_proxy": socks_url}, proxy="")
        assert seen == []
        works(**values, env={"no_proxy": "localhost"}, proxy=socks_url)
        assert seen.pop() == ("localhost", dovecot.tls_port)
    with http_proxy(seen, refuse=True) as proxy:
        fails("network", "403", **values, proxy="http://127.0.0.1:%d" % proxy.port)
    fails("network", **values, proxy="socks5h://127.0.0.1:1")


def test_nobody_there():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        fails("network", port=s.getsockname()[1], tls="none")
    fails("network", "name.invalid", host="name.invalid", port=143, tls="none")


# -- peers that misbehave

GREETING = b"* OK hello\r\n"


def silent_after(count, close):
    """A server that answers count times and then says nothing any more, or closes."""
    answers = [GREETING, b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n%s OK\r\n", b"+ \r\n", b"%s NO\r\n"]

    def serve(connection):
        rest = lines(connection)
        for i, answer in enumerate(answers[:count]):
            tag = next(rest).split()[0] if i > 0 else b""
            connection.sendall(answer.replace(b"%s", tag))
        if close:
            return
        for _ in rest:
            pass
    return Peer(serve)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("count", range(4))
def test_silent_or_gone(count, close):
    with silent_after(count, close) as peer:
        out = fails("network", port=peer.port, tls="none", timeout=400)
        assert ("does not answer" in out) != close, out


@pytest.mark.parametrize("close", [False, True])
def test_silent_or_gone_in_tls(close):
    with silent_after(0, close) as peer:
        out = fails("network", port=peer.port, tls="imaps", timeout=400)
        assert ("does not answer" in out) != close, out


def test_signs_of_life_do_not_last():
    """Each line of the server is a sign of life, but not for ever."""
    def serve(connection):
        while not peer.ended.wait(0.05):
            connection.sendall(GREETING + b"* OK hello again\r\n")
    with Peer(serve) as peer:
        fails("network", "does not answer", port=peer.port, tls="none", timeout=300)


def peak(values):
    """Peak memory of the driver in KiB, and its output."""
    _, kib, done = measure(arguments({"host": "localhost", "user": "u1", "password": "pass", **values}),
                           stdout=subprocess.PIPE)
    return kib, done.stdout


def test_endless_greeting():
    def serve(connection):
        connection.sendall(b"* OK ")
        for _ in range(100):
            connection.sendall(b"x" * 1048576)
        for _ in lines(connection):
            pass
    with Peer(serve) as peer:
        memory, out = peak({"port": peer.port, "tls": "none", "timeout": 3000, "until": "never"})
    assert b"failed network" in out
    assert memory < 50000


def test_closed_after_the_login():
    def serve(connection):
        imap_login(connection).readline()
    with Peer(serve) as peer:
        out = fails("network", "has closed the connection", port=peer.port, tls="none")
        assert out.startswith("connected\n")


def test_send_to_one_that_is_gone(dovecot):
    """No SIGPIPE, also through TLS."""
    def serve(connection):
        imap_login(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    for tls, kind in [(None, "none"), ((dovecot.root + "/cert.pem", dovecot.root + "/key.pem"), "imaps")]:
        with Peer(serve, tls=tls) as peer:
            out = fails("network", port=peer.port, tls=kind, bulk=30000000, insecure=1)
            assert out.startswith("connected\n")


@pytest.mark.parametrize("kind", ["none", "imaps"])
def test_slow_reader(dovecot, kind):
    """More than fits into the socket goes out when there is room, in order and once."""
    received = []

    def serve(connection):
        f = imap_login(connection)
        received.append((f.readline(), f.read(20000000).strip(b"x")))
        connection.sendall(b"a OK\r\n")
    tls = (dovecot.root + "/cert.pem", dovecot.root + "/key.pem") if kind == "imaps" else None
    with Peer(serve, tls=tls) as peer:
        out = run(port=peer.port, tls=kind, sends=["a BULK"], bulk=20000000, insecure=1)
    assert received == [(b"a BULK\r\n", b"")]
    assert out == "connected\na OK\r\nunsent 0\n"


@pytest.mark.parametrize("single", [0, 1])
def test_much_comes(dovecot, single):
    """More than one read takes: nothing stays in TLS's buffers, even if the caller takes only a part at a time."""
    def serve(connection):
        imap_login(connection).readline()
        connection.sendall(b"x" * 16000 + b"a OK\r\n")
        peer.ended.wait()
    with Peer(serve, tls=(dovecot.root + "/cert.pem", dovecot.root + "/key.pem")) as peer:
        out = run(tls="imaps", port=peer.port, insecure=1, single=single)
    assert out == "connected\n" + "x" * 16000 + "a OK\r\nunsent 0\n"


@pytest.mark.parametrize("kind", ["none", "imaps", "starttls"])
def test_again(dovecot, kind, tmp_path):
    """The same transport for many connections, good ones and bad ones: no descriptor is left."""
    values = {**tls_arguments(dovecot, kind), "insecure": 1, "again": 5}
    for more in [{}, {"password_command": "echo pass"}, {"password_command": "false"}, {"password": "wrong"},
                 {"insecure": 0},
                 {"password_command": "yes"}]:
        out = run(**{**values, **more})
        counts = [line for line in out.splitlines() if line.startswith("descriptors")]
        assert len(counts) == 6 and len(set(counts)) == 1, out


@pytest.mark.parametrize("phase", ["command", "tls", 0, 1, 2, 3, "open"])
def test_free_waits_for_nobody(phase):
    """In each phase the other side is silent for longer than this test may take."""
    def serve(connection):
        for _ in imap_login(connection):
            pass
    values = {"timeout": 1000000, "give_up": 300, "until": None}
    if phase == "command":
        run(port=1, **values, password_command="sleep 1000")
        return
    with Peer(serve) if phase == "open" else silent_after(0 if phase == "tls" else phase, False) as peer:
        out = run(port=peer.port, tls="imaps" if phase == "tls" else "none", **values)
        assert ("connected" in out) == (phase == "open")


def test_nobody_waits_for_children(dovecot):
    """If the program ignores SIGCHLD, a command's exit status is lost, but not what it has printed."""
    works(port=dovecot.port, tls="none", password_command="echo pass", sigchld=1)
    fails("login", "no first line", port=dovecot.port, tls="none", password_command="false", sigchld=1)
    fails("login", "has not ended", port=dovecot.port, tls="none", password_command="sleep 1000; true", sigchld=1,
          timeout=300)
