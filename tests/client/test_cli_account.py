"""The account file and dovetail login: what they take, and bad files, values and directories of each kind."""

import os
import pwd
import stat

import pytest

from cli import CONFIG, FAILED, LOGIN, OFFLINE, USAGE, Machine

BASE = "host = 127.0.0.1\nuser = u\n"


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "home")


@pytest.fixture
def flags(server):
    """Options of login for the test server."""
    return ["--host", "127.0.0.1", "--port", str(server.port), "--tls", "none"]


# -- reading the file

@pytest.mark.parametrize("line, message", [
    ("nonsense", '"key = value" is needed'),
    ("Host = a", "there is no such key"),
    ("unknown = 1", "there is no such key"),
    ("= 1", "there is no such key"),
    ("user = twice", "the key is there twice"),
    ("port = ", "a value is needed"),
    ("port = 0", "a number is needed"),
    ("port = 65536", "the number is too large"),
    ("port = -1", "a number is needed"),
    ("port = 993x", "a number is needed"),
    ("port = 99999999999999999999999", "a number is needed"),
    ("tls = yes", "default, imaps, starttls or none is needed"),
    ("insecure = true", "yes or no is needed"),
    ("conflict = theirs", "lines, server, mine or json is needed"),
    ("timeout = 0", "at least 1 second is needed"),
    ("timeout = 86401", "the number is too large"),
    ("max_value = 1.5M", "a number is needed, as 500000, 64K, 16M or 1G"),
    ("max_value = 2G", "the number is too large"),
    ("max_bytes = 99999999T", "the number is too large"),
    ("max_entries = 1K", "a number is needed"),
    ("prefix = short", "an entry begins with /private or /shared"),
    ("prefix = /privatex/a", "an entry begins with /private or /shared"),
    ("prefix = /private", "a name below /private or /shared is needed"),
    ("prefix = /private/a/", "an entry has no empty part"),
    ("prefix = /private//a", "an entry has no empty part"),
    ("prefix = /private/ä", "an entry has visible ASCII characters only, without * and %"),
    ("prefix = /private/a*", "an entry has visible ASCII characters only, without * and %"),
    ("prefix = /private/" + "a" * 1100, "the entry is too long"),
    ("covers = everything", "needed is: account ENTRY, mailboxes ENTRY, mailbox NAME ENTRY or subtree NAME ENTRY"),
    ("covers = account", "the scope and one entry are needed; names with blanks are in \"\""),
    ("covers = account /private /shared", "the scope and one entry are needed; names with blanks are in \"\""),
    ("covers = mailbox /private", "the scope and one entry are needed; names with blanks are in \"\""),
    ('covers = mailbox "Work /private', "a quote has no end"),
    ("covers = account Work", "an entry begins with /private or /shared"),
    ("passphrase_command = /private/a", "a subtree and a command are needed"),
    ("key_file = /private/a", "a subtree and a file are needed"),
    ("key_file = a b", "an entry begins with /private or /shared"),
])
def test_lines_that_cannot_be(machine, line, message):
    path = machine.account(BASE + "# a comment\n\n" + line + "\n")
    assert machine.error(CONFIG, "status") == "%s: line 5: %s" % (path, message)


@pytest.mark.parametrize("text, message", [
    ("", "the key host is missing"),
    ("host = a\n", "the key user is missing"),
    ("user = a\n", "the key host is missing"),
    (BASE.encode() + b"# \xff\n", "not UTF-8"),
    (BASE + "# \0\n", "not UTF-8"),
    (BASE + "#" * 300000, "the file is too large"),
])
def test_files_that_cannot_be(machine, text, message):
    path = machine.account(text)
    assert machine.error(CONFIG, "status") == "%s: %s" % (path, message)


def test_a_password_is_not_shown(machine):
    machine.account("host = a\nuser = b\npassword = secret\npassword = secret\n")
    assert "secret" not in machine.error(CONFIG, "status")


def test_all_keys(machine):
    lines = ["  host=127.0.0.1\r", "port = 1", "tls= imaps ", "user =u x", "\t# c", "token_command = a = b",
             "password_command = x", "password = p", "netrc = ~/.netrc", "mechanism = PLAIN", "proxy =", "ca_file = ~/ca",
             "insecure = no", "timeout = 5", "replica = ~/r", "prefix = /Shared/Vendor/X y",
             'covers = account "/private/a b"', "covers = mailboxes /shared", 'covers = mailbox "a \\" b" /private',
             "covers = subtree Work /private/x", "conflict = json", "poll_interval = 1", "keepalive = 2",
             "max_backoff = 3", "max_value = 1k", "max_entries = 5", "max_bytes = 1G", "max_removals = 0",
             'passphrase_command = "/private/a b" echo x', "key_file = /private/x ~/key"]
    machine.account("\n".join(lines))
    status, = machine.lines("status", "--json")
    assert status["user"] == "u x" and status["prefix"] == "/shared/vendor/x y"
    assert status["replica"] == machine.home + "/r"


# -- the file itself

@pytest.mark.parametrize("mode, password, good", [(0o600, True, True), (0o400, True, True), (0o640, True, False),
                                                  (0o604, True, False),
                                                  (0o644, False, True), (0o620, False, False), (0o602, False, False)],
                         ids=str)
def test_modes(machine, mode, password, good):
    path = machine.account(BASE + ("  password=x\n" if password else ""), mode=mode)
    if good:
        machine.out("status")
    else:
        assert machine.error(CONFIG, "status").startswith(path + ": other users may ")


@pytest.mark.parametrize("url, good", [("http://u:secret@h:1", False), ("socks5h://u:secret@h", False), ("u:secret@h", False),
                                       ("http://u@h:1", True), ("http://h:1", True), ("", True)])
def test_a_proxy_with_a_password_is_for_nobody_else(machine, url, good):
    path = machine.account(BASE + "proxy = %s\n" % url, mode=0o644)
    if good:
        machine.out("status")
    else:
        assert machine.error(CONFIG, "status").startswith(path + ": other users may read the file, ")
        os.chmod(path, 0o600)
        machine.out("status")


def test_no_account(machine):
    assert machine.error(CONFIG, "get", "x") == \
        'there is no account default (%s); "dovetail login" makes one' % machine.config
    assert "there is no account work (" in machine.error(CONFIG, "get", "x", "--account", "work")
    assert "No such file" in machine.error(CONFIG, "get", "x", "--config", "none")


def test_what_is_no_file(machine):
    os.makedirs(machine.config)
    assert machine.error(CONFIG, "status") == machine.config + ": not a regular file"
    assert machine.error(CONFIG, "status", "--config", "/dev/null") == "/dev/null: not a regular file"
    os.mkfifo(machine.home + "/fifo")
    assert machine.error(CONFIG, "status", "--config", machine.home + "/fifo").endswith(": not a regular file")


def test_links(machine):
    """People keep their configuration elsewhere; what counts is the file."""
    path = machine.account(BASE, name="real")
    os.symlink(path, machine.config)
    machine.out("status")
    os.chmod(path, 0o666)
    assert "write" in machine.error(CONFIG, "status")
    os.remove(path)
    machine.error(CONFIG, "status")
    os.symlink(machine.config, path)
    machine.error(CONFIG, "status")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_file_of_somebody_else(machine):
    os.chown(machine.account(BASE), 12345, 12345)
    assert "belongs to another user" in machine.error(CONFIG, "status")


def test_names_of_accounts(machine):
    machine.account(BASE, name="work")
    machine.out("status", "--account", "work")
    machine.out("-awork", "status")
    machine.out("status", env={"DOVETAIL_ACCOUNT": "work"})
    machine.error(CONFIG, "status", env={"DOVETAIL_ACCOUNT": ""})
    for name in ("", "../x", "a/b", ".", "..", "a b", "-x", "a" * 300, "ä"):
        assert "no name for an account" in machine.error(USAGE, "status", "--account=" + name)
    machine.error(USAGE, "status", env={"DOVETAIL_ACCOUNT": "../work"})
    machine.error(USAGE, "status", "--account", "work", "--config", "x")


def test_directories(machine, tmp_path):
    machine.account(BASE)
    env = {"XDG_CONFIG_HOME": str(tmp_path / "c"), "XDG_STATE_HOME": str(tmp_path / "s")}
    machine.error(CONFIG, "status", env=env)
    os.makedirs(tmp_path / "c/dovetail")
    os.rename(machine.config, tmp_path / "c/dovetail/default.conf")
    status, = machine.lines("status", "--json", env=env)
    assert status["replica"] == str(tmp_path / "s/dovetail/default/u@127.0.0.1.db")
    assert stat.S_IMODE(os.stat(tmp_path / "s/dovetail").st_mode) == 0o700
    # the specification: what is not absolute does not count
    machine.error(CONFIG, "status", env={"XDG_CONFIG_HOME": "c"})


def test_config_by_path(machine, tmp_path):
    path = machine.account(BASE, name="x")
    os.rename(path, machine.home + "/x.conf")
    status, = machine.lines("status", "--json", "--config", machine.home + "/x.conf")
    assert status["replica"] == machine.home + "/x.replica/u@127.0.0.1.db"
    machine.out("status", "--config", "x.conf")


def test_without_home(machine):
    """That of the user database is taken."""
    home = pwd.getpwuid(os.getuid()).pw_dir
    error = machine.error(CONFIG, "status", "-a", "no.such", env={"HOME": ""})
    assert error.startswith("there is no account no.such (%s/.config/dovetail/no.such.conf); " % home)


def test_each_user_and_server_has_a_replica(machine):
    names = set()
    for user in ("u", "U", "../../u", "a@b", "a/b", ".hidden", "ä", "x y"):
        machine.account("host = h\nuser = %s\n" % user)
        status, = machine.lines("status", "--json")
        assert os.path.dirname(status["replica"]) == machine.state + "/default"
        names.add(status["replica"])
    assert len(names) == 8
    # so has each port, but for the two of IMAP, which are one server
    for port in (993, 143, 1143, 1993):
        machine.account("host = h\nuser = u\nport = %d\n" % port)
        status, = machine.lines("status", "--json")
        names.add(status["replica"])
    assert len(names) == 10 and machine.state + "/default/u@h:1143.db" in names
    machine.account("host = h\nuser = %s\n" % ("x" * 300))
    assert "too long" in machine.error(CONFIG, "status")


def test_replicas_that_cannot_be(machine, tmp_path):
    machine.account(BASE + "replica = relative\n")
    assert "an absolute path is needed" in machine.error(CONFIG, "status")
    machine.account(BASE + "replica = %s\n" % tmp_path)
    machine.error(CONFIG, "status")
    (tmp_path / "text").write_text("this is no database\n" * 100)
    machine.account(BASE + "replica = %s\n" % (tmp_path / "text"))
    machine.error(CONFIG, "status")
    assert (tmp_path / "text").read_text() == "this is no database\n" * 100
    (tmp_path / "file").write_text("")
    machine.account(BASE + "replica = %s\n" % (tmp_path / "file/x"))
    machine.error(CONFIG, "status")
    os.symlink(tmp_path / "text", tmp_path / "link")
    machine.account(BASE + "replica = %s\n" % (tmp_path / "link"))
    machine.error(CONFIG, "status")


# -- login

def test_login(machine, user, flags):
    done = machine.run("login", user, *flags, "--password-command", "echo pass; echo more")
    assert done.stderr.decode() == ("dovetail: logged in; entries: 0\ndovetail: account written: %s\n" % machine.config)
    assert stat.S_IMODE(os.stat(machine.config).st_mode) == 0o600
    assert os.listdir(os.path.dirname(machine.config)) == ["default.conf"]
    machine.out("set", "a", "1")
    assert machine.out("get", "a") == "1"
    # again, and with another name
    assert "there is an account already" in machine.error(CONFIG, "login", user, *flags, "--password-command",
                                                          "echo pass")
    machine.out("login", "-q", "--force", "--user", user, *flags, "--password-command", "echo pass", "--prefix",
                "/private/vendor/x")
    machine.out("login", "-q", "-a", "work", user, *flags, "--password-command", "echo pass")
    assert machine.out("get", "a", "--account", "work") == "1"
    machine.error(FAILED, "get", "a")


def test_login_with_netrc(machine, user, flags):
    path = machine.home + "/netrc"
    with open(path, "w") as f:
        f.write("machine 127.0.0.1 login %s password pass\n" % user)
    os.chmod(path, 0o600)
    machine.out("login", "-q", user, *flags, "--netrc", "netrc")
    assert "netrc = %s\n" % path in open(machine.config).read()
    machine.out("set", "a", "1")


@pytest.mark.parametrize("command", ["echo wrong", "false", "true", "exit 3", "kill $$", "/nowhere/x 2>/dev/null"])
def test_login_refused(machine, user, flags, command):
    done = machine.run("login", user, *flags, "--password-command", command, code=LOGIN)
    assert done.stderr.endswith(b"dovetail: no account has been written; --no-check writes one without a look at the "
                                b"server\n")
    assert not os.path.exists(machine.config)


def test_login_to_nowhere(machine, user):
    machine.run("login", user, "--host", "127.0.0.1", "--port", "1", "--tls", "none", "--password-command", "echo x",
                code=OFFLINE)
    assert not os.path.exists(machine.config)
    machine.run("login", user, "--host", "127.0.0.1", "--port", "1", "--password-command", "echo x", "--no-check",
                "--offline")
    assert os.path.exists(machine.config)


@pytest.mark.parametrize("args", [
    [], ["u"], ["--host", "h"], ["u", "v", "--host", "h"],
    ["u", "--host", "h", "--password-command", "x", "--netrc", "y"],
    ["u", "--host", "h", "--store-password", "--netrc", "y"],
    ["u", "--host", "h", "--offline"],
    ["u", "--host", "h", "--port", "70000", "--no-check", "--netrc", "x"],
    ["u", "--host", "h", "--tls", "ssl", "--no-check", "--netrc", "x"],
    ["u", "--host", "h", "--prefix", "x", "--no-check", "--netrc", "x"],
    ["u", "--host", "h\nport = 1", "--no-check", "--netrc", "x"],
    ["u", "--host", " h", "--no-check", "--netrc", "x"],
    ["u", "--host", "", "--no-check", "--netrc", "x"],
    ["", "--host", "h", "--no-check", "--netrc", "x"],
    ["u", "--host", "h", "--port", "0", "--no-check", "--netrc", "x"],
    ["u", "--host", "h", "--mechanism", "", "--no-check", "--netrc", "x"],
    [b"\xff", "--host", "h", "--no-check", "--netrc", "x"],
], ids=lambda args: " ".join(map(str, args)))
def test_login_with_wrong_arguments(machine, args):
    machine.error(USAGE, "login", *args)
    assert not os.path.exists(machine.config)


@pytest.mark.parametrize("option, value, message", [
    ("tls", "ssl", "default, imaps, starttls or none is needed"),
    ("port", "70000", "the number is too large"),
    ("prefix", "x", "an entry begins with /private or /shared"),
    ("ca-file", "", "a value is needed"),
])
def test_login_names_the_option_that_is_wrong(machine, option, value, message):
    error = machine.error(USAGE, "login", "u", "--host", "h", "--no-check", "--netrc", "x", "--" + option, value)
    assert error == "--%s: %s" % (option, message)


def test_login_without_a_terminal(machine, user, flags):
    done = machine.run("login", user, *flags, code=LOGIN, start_new_session=True)
    assert done.stderr.startswith(b"dovetail: there is no terminal to ask for: password of ")
    assert not os.path.exists(machine.config)


def test_login_where_nothing_can_be_written(machine, user, flags):
    os.makedirs(machine.home + "/.config")
    with open(machine.home + "/.config/dovetail", "w"):
        pass
    machine.run("login", user, *flags, "--password-command", "echo pass", code=CONFIG)
    assert os.listdir(machine.home + "/.config") == ["dovetail"]


def test_login_writes_through_a_link(machine, user, flags):
    os.makedirs(os.path.dirname(machine.config))
    path = machine.home + "/real.conf"
    with open(path, "w") as f:
        f.write("old\n")
    os.symlink(path, machine.config)
    machine.out("login", "-q", "--force", user, *flags, "--password-command", "echo pass")
    assert os.path.islink(machine.config) and "user = %s\n" % user in open(path).read()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
