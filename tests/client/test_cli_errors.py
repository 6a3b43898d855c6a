"""Exit codes of dovetail that servers and the machine cause: refusals, TLS, servers that cannot, mass removals, full
disks, closed files."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from cli import (CONFIG, DOVETAIL, FAILED, LOGIN, MASS_REMOVAL, OFFLINE, OK, PREFIX, REFUSED, SYSTEM, TLS, UNSUPPORTED, USAGE,
                 Machine)
from peers import Peer


@pytest.fixture
def machine(server, user, tmp_path):
    return Machine(tmp_path / "home", server, user)


# -- the login

def test_a_wrong_password(server, user, tmp_path):
    machine = Machine(tmp_path / "home", server, user, password="wrong")
    for args in (["get", "a"], ["sync"]):
        machine.error(LOGIN, *args)
    # what was written stays
    assert machine.error(LOGIN, "set", "a", "1").startswith("queued, not sent: ")
    machine.account(host="127.0.0.1", port=server.port, tls="none", user=user, password="pass")
    assert machine.lines("status", "--json")[0]["pending"] == "1"
    machine.out("sync")
    assert machine.lines("status", "--json")[0]["pending"] == "0"


def test_reading_goes_on_when_the_login_is_refused_later(machine, server, user):
    machine.out("set", "a", "1")
    machine.account(host="127.0.0.1", port=server.port, tls="none", user=user, password="wrong")
    done = machine.run("get", "a")
    assert done.stdout == b"1" and done.stderr.startswith(b"dovetail: not up to date: ")
    machine.error(LOGIN, "get", "a", "--online")


# -- TLS

@pytest.fixture(scope="module")
def tls_server(make_module_server):
    return make_module_server(tls=True)


def tls_account(server, user, **keys):
    return {"host": "localhost", "port": server.tls_port, "user": user, "password": "pass", "timeout": 30,
            "ca_file": server.root + "/cert.pem", **keys}


def test_tls(tls_server, user, tmp_path):
    machine = Machine(tmp_path / "home")
    machine.account(**tls_account(tls_server, user))
    machine.out("set", "a", "1")
    machine.account(**tls_account(tls_server, user, port=tls_server.port, tls="starttls"))
    assert machine.out("get", "a", "--online") == "1"
    machine.account(**tls_account(tls_server, user, ca_file=None, insecure="yes"))
    assert machine.out("get", "a", "--online") == "1"


@pytest.mark.parametrize("keys", [{"ca_file": None}, {"ca_file": "/etc/hostname"}, {"ca_file": "/no/such/file"}],
                         ids=["unknown", "no certificates", "no file"])
def test_a_certificate_that_does_not_fit(tls_server, user, tmp_path, keys):
    machine = Machine(tmp_path / "home")
    machine.account(**tls_account(tls_server, user, **keys))
    machine.error(TLS, "sync")


def test_no_starttls(server, user, tmp_path):
    machine = Machine(tmp_path / "home", server, user, tls="starttls")
    machine.error(TLS, "sync")


# -- servers that cannot

def test_a_server_without_metadata(make_server, user, tmp_path):
    server = make_server(plugins=False, extra="protocol imap {\n  imap_metadata = no\n}\n")
    machine = Machine(tmp_path / "home", server, user)
    machine.error(UNSUPPORTED, "sync")
    machine.error(UNSUPPORTED, "get", "a")


@pytest.fixture
def stock(make_server):
    """A server with METADATA, but not with XMETASYNC."""
    return make_server(plugins=False, extra="mail_attribute_dict = file:%h/attributes\n")


def test_a_server_without_xmetasync(stock, user, tmp_path):
    covers = "account /private/vendor/dovetail"
    one, two = (Machine(tmp_path / name, stock, user, covers=covers) for name in ("one", "two"))
    # one line, when it is the sync that was asked for
    assert b"XMETASYNC" in one.run("sync").stderr
    one.out("set", "a", "1")
    assert two.out("get", "a") == "1"
    two.out("rm", "a")
    assert one.out("ls") == ""
    assert one.lines("status", "--json")[0]["server"] == "METADATA"
    assert "polled" in one.out("status")


@pytest.mark.parametrize("said, message", [
    (b"", "the connection was closed before the login was done"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "the connection was closed before the login was done"),
    (b"* OK hello\r\n", "the connection was closed before the login was done"),
    (b"* BYE too many users\r\n", "the server is not ready: too many users"),
])
def test_what_listens_is_no_server(tmp_path, said, message):
    with Peer(lambda connection: connection.sendall(said)) as peer:
        machine = Machine(tmp_path / "home")
        machine.account(host="127.0.0.1", port=peer.port, tls="none", user="u", password="p")
        assert machine.error(OFFLINE, "sync") == "127.0.0.1:%d: %s" % (peer.port, message)


def test_a_timeout(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        machine = Machine(tmp_path / "home")
        machine.account(host="127.0.0.1", port=mute.getsockname()[1], tls="none", user="u", password="p")
        port = mute.getsockname()[1]
        assert machine.error(OFFLINE, "sync", "--timeout", "1") == "127.0.0.1:%d does not answer" % port
        assert machine.error(OFFLINE, "set", "-t1", "a", "1").startswith("queued, not sent: ")
    assert machine.run("sync", "--timeout", "100000", code=USAGE)


# -- limits and removals

def test_an_account_that_is_full(make_server, user, tmp_path):
    server = make_server(plugin={"metasync_limit_entries": "2"})
    machine = Machine(tmp_path / "home", server, user)
    machine.out("set", "a", "1")
    machine.out("set", "b", "1")
    assert machine.error(REFUSED, "set", "c", "1").startswith("refused: c: ")
    assert machine.out("ls") == "a\nb\n"
    machine.out("rm", "a")
    machine.out("set", "c", "1")
    assert machine.lines("status", "--json")[0]["refused"] == []


def test_a_value_that_is_too_large_here(machine, server, user, tmp_path):
    machine.out("set", "a", input=b"x" * 2000)
    small = Machine(tmp_path / "small", server, user, max_value=1000)
    assert "larger than max_value" in small.error(REFUSED, "get", "a")
    assert "N" in small.out("ls", "-l").split()[0]
    assert small.lines("ls", "--json")[0]["flags"] == ["not-here"]
    assert small.error(REFUSED, "export").startswith("a: ")
    assert small.out("export", "--skip-unreadable") == ""


def test_a_server_that_has_become_empty(make_server, user, tmp_path):
    server = make_server()
    machine = Machine(tmp_path / "home", server, user, max_removals=3)
    for i in range(5):
        machine.out("set", "n%d" % i, "1")
    server.await_no_session(user)
    server.stop()
    shutil.rmtree(server.home(user))
    server.start()
    done = machine.run("sync", code=MASS_REMOVAL)
    assert done.stderr.endswith(b'; "dovetail sync --yes" allows it\n')
    done = machine.run("ls")
    assert done.stdout.count(b"\n") == 5 and done.stderr.startswith(b"dovetail: not up to date: ")
    machine.error(MASS_REMOVAL, "ls", "--online")
    machine.run("sync", "--yes")
    assert machine.out("ls") == ""


# -- this machine

def test_a_replica_that_is_damaged(machine):
    machine.out("set", "a", "1")
    path = machine.lines("status", "--json")[0]["replica"]
    with open(path, "r+b") as f:
        f.write(b"x" * 5000)
    before = open(path, "rb").read()
    machine.error(CONFIG, "get", "a")
    assert open(path, "rb").read() == before


@pytest.mark.parametrize("args", [["get", "a"], ["get", "-j", "a"], ["ls"], ["ls", "-l"], ["export"], ["status"],
                                  ["status", "--json"],
                                  ["--version"], ["help"], ["help", "ls"], ["import", "--dry-run", "lines"]],
                         ids=" ".join)
def test_output_that_cannot_be_written(machine, args):
    machine.out("set", "a", input=b"x" * 100000)
    with open(machine.home + "/lines", "w"):
        pass
    with open("/dev/full", "w") as full:
        assert machine.error(SYSTEM, *args, stdout=full) == "cannot write to standard output: No space left on device"
    machine.error(SYSTEM, *args, stdout=None, preexec_fn=lambda: os.close(1))
    read, write = os.pipe()
    os.close(read)
    assert machine.error(SYSTEM, *args, stdout=write) == "cannot write to standard output: Broken pipe"
    os.close(write)


def test_many_lines_to_a_reader_that_goes(machine):
    lines = "".join('{"mailbox":"","entry":"%sn%d","value":"%s"}\n' % (PREFIX, i, "x" * 500) for i in range(1000))
    machine.out("import", "--offline", input=lines)
    done = subprocess.run("'%s' export --offline | head -1 | wc -l; exit ${PIPESTATUS[0]}" % DOVETAIL, shell=True,
                          env=machine.env,
                          executable="/bin/bash", capture_output=True)
    assert done.returncode == SYSTEM and done.stdout == b"1\n"
    assert done.stderr == b"dovetail: cannot write to standard output: Broken pipe\n"


def test_a_temporary_directory_that_is_not_there(machine):
    """What comes from a pipe is kept in a file."""
    assert machine.error(SYSTEM, "import", input='{"mailbox":"","entry":"/private/a","value":"1"}\n',
                         env={"TMPDIR": "/nowhere"}) == "a temporary file: No such file or directory"


def test_a_temporary_directory_that_is_full(machine):
    """What does not fit is not taken for the end of the lines."""
    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
    assert machine.error(SYSTEM, "import", input='{"mailbox":"","entry":"/private/a","value":"1"}\n' * 10000,
                         preexec_fn=full) == "a temporary file: File too large"


def test_a_message_is_one_write(machine):
    """So it stays one line where several programs write into one log."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        machine.run("get", "nothing", code=FAILED, stderr=theirs)
        assert ours.recv(10000) == b"dovetail: nothing: there is no such entry\n"


def test_a_long_message_says_what_is_wrong(machine):
    assert machine.error(USAGE, "get", "x" * 3000).endswith("xx\" is longer than 1024 octets")
    assert machine.error(USAGE, "get", "a", "x" * 3000).endswith('xx"?; see "dovetail help get"')


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "de_DE.UTF-8", "xx"])
def test_locales(machine, locale):
    machine.out("set", "a", "grün\n", env={"LC_ALL": locale})
    assert machine.out("get", "a", env={"LC_ALL": locale}) == "grün\n"
    assert machine.lines("get", "a", "--json", env={"LC_ALL": locale})[0]["value"] == "grün\n"


def test_parallel_commands(machine, server, user, tmp_path):
    """Several at once on one replica: one syncs, the others wait for it or read what is there."""
    processes = [machine.start("set", "n%d" % i, str(i)) for i in range(6)]
    for p in processes:
        out, err = p.communicate(timeout=60)
        assert (p.returncode, out, err) == (OK, b"", b"")
    assert Machine(tmp_path / "two", server, user).out("ls").split() == ["n%d" % i for i in range(6)]


def test_kill(machine, server, user, tmp_path):
    """Whenever it is killed, what it has said is true, and the next one goes on."""
    for i in range(10):
        process = machine.start("set", "a", str(i))
        timer = threading.Timer(0.004 * i, lambda p=process: p.send_signal(signal.SIGKILL))
        timer.start()
        code = process.wait()
        process.communicate()
        timer.cancel()
        if code == OK:
            assert machine.out("get", "a", "--offline") == str(i)
    machine.out("set", "a", "end")
    assert Machine(tmp_path / "two", server, user).out("get", "a") == "end"
