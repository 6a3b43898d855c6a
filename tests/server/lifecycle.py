"""What the tests of the long-command framework share: the plugin's commands (plugin/long-command-test.c),
their lines in the log, and looking at imap processes from outside."""

import fcntl
import os
import re
import struct
import termios
import time
from collections import Counter

from harness.server import imap_pid
from metasync import TOOK, sane

ROW = 1024
# More than the buffers of a connection hold
MUCH = 8000000
OK = b"OK XTEST completed"
BAD = b"BAD Expected DONE"
MESSAGE = b"Subject: hello\r\n\r\nworld\r\n"


def settings(**kwargs):
    """plugin { } for a server whose XTEST can watch a file."""
    plugin = {"long_command_test_path": "%h/wake"}
    plugin.update(kwargs)
    return plugin


# -- the log ---------------------------------------------------------------------------------------

def await_log(server, pattern, timeout=30):
    """The first match in the server's log, which is read until there is one."""
    end = time.monotonic() + timeout
    while True:
        m = re.search(pattern, server.log())
        if m:
            return m
        assert time.monotonic() < end, "%s is not in the log:\n%s" % (pattern, server.log()[-3000:])
        time.sleep(0.01)


def await_finish(server, name):
    """Why the command ended."""
    return await_log(server, r"xtest finish %s why=(\S+) " % re.escape(name))[1]


def check_balance(log):
    """Each start has exactly one finish."""
    starts = Counter(re.findall(r"xtest start (\S+)", log))
    finishes = Counter(re.findall(r"xtest finish (\S+) why", log))
    assert starts == finishes, (starts - finishes, finishes - starts)
    assert starts


# -- processes -------------------------------------------------------------------------------------

def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_end(pid):
    """A process that has lost its only client ends."""
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline, "process %d does not end" % pid
        time.sleep(0.01)


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read())[1])


def assert_quiet(pids, bystander):
    """No process uses the CPU while the bystander waits for its timer."""
    before = {pid: cpu_seconds(pid) for pid in pids if alive(pid)}
    bystander.send(b"TIMER 1000\r\n")
    bystander.expect(rb"\* XTEST TIMER")
    for pid, seconds in before.items():
        assert not alive(pid) or cpu_seconds(pid) - seconds < 0.3, "process %d spins" % pid


def await_blocked(client):
    """Until the imap process rests although the client has not read what it sent. (Its commands need not know: a
    compressing stream can fill the output when it is flushed, between two calls of a command.)"""
    pid = imap_pid(client.sock)
    end = time.monotonic() + 30
    before = None
    while True:
        unread = struct.unpack("i", fcntl.ioctl(client.sock.fileno(), termios.FIONREAD, b"\0" * 4))[0]
        now = unread, cpu_seconds(pid)
        if unread > 0 and now == before:
            return
        assert time.monotonic() < end, "%d octets unread, and not blocked" % unread
        before = now
        time.sleep(0.05)


# -- what happens outside --------------------------------------------------------------------------

def wake_path(server, user):
    return os.path.join(server.home(user), "wake")


def make_wake(server, user):
    home = server.home(user)
    if not os.path.isdir(home):
        os.makedirs(home, mode=0o700)
        if os.getuid() == 0:
            os.chown(home, server.mail_uid, server.mail_gid)
    wake(server, user)


def wake(server, user):
    with open(wake_path(server, user), "wb") as f:
        f.write(b"x")


def deliver(server, user):
    """A message for the user's INBOX, by another session."""
    c = server.login(user)
    r = c.command(b"APPEND INBOX {%d+}\r\n%s" % (len(MESSAGE), MESSAGE))[-1]
    assert b" OK " in r.line, r
    c.logout()


# -- replies ---------------------------------------------------------------------------------------

def reply(response):
    """A tagged line without the tag and without the times that Dovecot adds."""
    return TOOK.sub(b"", response.line.split(b" ", 1)[1]).rstrip(b".")


def rows(responses):
    """The numbers of the rows of output."""
    return [int(r.line.split(b" ")[3]) for r in responses if r.line.startswith(b"* XTEST OUT ")]


def assert_rows(responses, count=None):
    """Rows in order, none missing, none twice; count of them, or what there was time for."""
    numbers = rows(responses)
    assert numbers == list(range(len(numbers)))
    assert count is None or len(numbers) == count


# -- XTEST -----------------------------------------------------------------------------------------

def waiting(client, options=b"", command=b"XTEST"):
    """Starts it, reads to the continuation; returns the tag."""
    tag = client.start(command + b" " + options)
    assert client.expect(rb"\+ idling")
    return tag


def done(client, tag):
    """Ends it; returns what came up to the tagged reply."""
    client.send(b"DONE\r\n")
    responses = client.until(tag)
    assert reply(responses[-1]) == OK
    sane(client)
    return responses
