"""A store that cannot be used: what the client is told, that the connection lives, that the operator gets a
line, and that all is well again when the cause is gone."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile

import pytest

import stores
from lifecycle import await_log
from metasync import Watch, last, put, sane
from stores import await_closed, directory, owned, prepare

A = b"/private/vendor/test/a"
SET = b'XMETASET "" (%s "x")' % A
SYNC = b'XMETASYNC (ONCE) "" ' + A


# As the uid that it is given, takes all inotify instances, until its input ends
HOG = """
import ctypes, os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.setresuid(*[int(sys.argv[1])] * 3)
libc = ctypes.CDLL(None, use_errno=True)
while libc.inotify_init() >= 0:
    pass
print("exhausted", flush=True)
sys.stdin.read()
"""


def refused(server, user, code, says):
    """What the client is told, and the operator."""
    c = server.login(user)
    for command in (SET, SYNC):
        line = last(c, command)
        assert line.startswith(b"T NO [%s] " % code), line
    sane(c)
    await_log(server, r"imap\(%s\).*: Error: metasync: %s" % (user, says.format(re.escape(directory(server, user)))))
    return c


def test_directory_is_a_file(server, user):
    prepare(server, user, stores.file_instead)
    c = refused(server, user, b"UNAVAILABLE", "{} is a link or not a directory: move it away")
    # the cause goes: the same session works
    os.remove(directory(server, user))
    put(c, [(A, b'"new"')])


def test_directory_is_a_link(server, user):
    prepare(server, user, stores.linked)
    refused(server, user, b"UNAVAILABLE", "{} is a link or not a directory: move it away, or set metasync_dir")


def test_directory_is_writable_by_others(server, user):
    prepare(server, user, stores.writable_by_others)
    refused(server, user, b"UNAVAILABLE", r"{} is writable by others \(mode 0770\): chmod go-w")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make another user's files")
def test_directory_is_another_users(server, user):
    prepare(server, user, stores.another_users)
    c = refused(server, user, b"UNAVAILABLE", "{}: open: Permission denied for uid %d" % server.mail_uid)
    # readable is not enough
    os.chmod(directory(server, user), 0o755)
    assert last(c, SET).startswith(b"T NO [UNAVAILABLE] ")
    await_log(server, r"%s belongs to uid %d, not to the user \(uid %d\): chown it" %
              (re.escape(directory(server, user)), server.mail_uid + 1, server.mail_uid))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make another user's files")
def test_link_to_another_users_store(server, user):
    """A user's directory that leads to somebody else's store."""
    def make(server, d):
        stores.linked(server, d)
        stores.another_users(server, d + "-elsewhere")
    prepare(server, user, make)
    refused(server, user, b"UNAVAILABLE", "{} is a link or not a directory")


def test_database_is_a_link(server, user):
    prepare(server, user, stores.linked_database)
    refused(server, user, b"UNAVAILABLE", "{}/store.db is not a regular file: move it away")


def test_directory_is_not_writable(server, user):
    prepare(server, user, stores.not_writable)
    c = refused(server, user, b"UNAVAILABLE", "{}: mkdir: Permission denied for uid %d" % server.mail_uid)
    os.chmod(server.home(user), 0o700)
    put(c, [(A, b'"new"')])


@pytest.mark.parametrize("make", [stores.not_writable_itself, stores.not_writable_and_empty])
def test_directory_itself_is_not_writable(server, user, make):
    prepare(server, user, make)
    c = refused(server, user, b"UNAVAILABLE", "{}.*(is not writable|Permission denied) for uid %d" % server.mail_uid)
    os.chmod(directory(server, user), 0o700)
    put(c, [(A, b'"new"')])


def test_newer_schema(server, user):
    prepare(server, user, stores.newer)
    refused(server, user, b"UNAVAILABLE", "{}/store.db has schema version 99, written by a newer version of Dovetail; .*"
            "Upgrade Dovetail on this host")


@pytest.mark.parametrize("content, says", [("zeros", "file is not a database"), ("garbage", "file is not a database"),
                                           ("pages", "database disk image is malformed"),
                                           ("truncated", "database disk image is malformed")])
def test_damaged_database(server, user, content, says):
    prepare(server, user, stores.damaged(content))
    refused(server, user, b"CORRUPTION", "{}/store.db: .*%s.*Nothing was deleted; restore the directory" % says)
    assert os.path.getsize(directory(server, user) + "/store.db") > 0


def test_locked_store(make_server):
    with make_server(plugin={"metasync_busy_timeout": "500ms"}) as server:
        c = server.login("u1")
        put(c, [(A, b'"1"')])
        w = Watch(server.login("u1"), b'"" /private').catch_up()
        db = sqlite3.connect(directory(server, "u1") + "/store.db", isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        assert last(c, SET).startswith(b"T NO [UNAVAILABLE] ")
        await_log(server, r"held by another process for more than 500 ms \(metasync_busy_timeout\). If this repeats")
        # reading goes on
        assert last(c, SYNC).startswith(b"T OK ")
        db.execute("ROLLBACK")
        db.close()
        put(c, [(A, b'"2"')])
        w.until("marker")
        assert w.state == {(b"", A): b"2"}
        w.done()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small file system")
def test_disk_full(make_server):
    """A file system of a few megabytes. The write that does not fit is not half there."""
    mount = tempfile.mkdtemp(prefix="dt-full-", dir="/tmp")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=777", "tmpfs", mount],
                      capture_output=True).returncode != 0:
        os.rmdir(mount)
        pytest.skip("cannot mount")
    try:
        with make_server(plugin={"metasync_dir": mount + "/%u"}) as server:
            c = server.login("u1")
            w = Watch(server.login("u1"), b'"" /private').catch_up()
            stored, refusal = 0, b""
            while stored < 100 and not refusal:
                line = last(c, b'XMETASET "" (/private/a/%d {300000+}\r\n%s /private/b/%d "x")'
                            % (stored, b"v" * 300000, stored))
                if line.startswith(b"T OK "):
                    stored += 1
                else:
                    refusal = line
            assert refusal.startswith(b"T NO [UNAVAILABLE] "), refusal
            assert stored > 0
            sane(c)
            fresh = Watch(server.login("u1"), b'"" /private').catch_up().done()
            assert len(fresh.state) == 2 * stored
            while len(w.state) < 2 * stored:
                w.until("marker")
            w.done()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
        os.rmdir(mount)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a uid that has nothing else to do")
def test_no_inotify(make_server):
    """The user's uid has no inotify instance left: sessions look once a second, and one line tells so."""
    with make_server(plugin={"imap_long_command_check_interval": "1h"}) as server:
        hog = subprocess.Popen([sys.executable, "-c", HOG, str(server.mail_uid)], stdout=subprocess.PIPE,
                               stdin=subprocess.PIPE)
        try:
            assert hog.stdout.readline() == b"exhausted\n"
            c, d = server.login("u1"), server.login("u1")
            w = Watch(d, b'"" /private').catch_up()
            for value in (b"1", b"2"):
                put(c, [(A, b'"%s"' % value)])
                w.until("marker")
                assert w.state == {(b"", A): value}
            w.done()
            Watch(d, b'"" /private').catch_up().done()
            assert server.log().count("No inotify watch for %s/wake: checking it once a second" %
                                      directory(server, "u1")) == 1
        finally:
            hog.communicate(timeout=30)


def test_wake_file_removed(make_server):
    with make_server(plugin={"imap_long_command_check_interval": "1s"}) as server:
        c = server.login("u1")
        put(c, [(A, b'"1"')])
        w = Watch(server.login("u1"), b'"" /private').catch_up()
        os.remove(directory(server, "u1") + "/wake")
        pos = put(c, [(A, b'"2"')])
        w.until("marker")
        assert w.mark[:2] == pos
        # the writer has made a new one
        assert os.path.getsize(directory(server, "u1") + "/wake") > 0
        pos = put(c, [(A, b'"3"')])
        w.until("marker")
        assert w.mark[:2] == pos
        w.done()


def test_a_writer_that_dies_before_the_wake(make_server):
    """The slow check finds what no event told."""
    with make_server(plugin={"imap_long_command_check_interval": "1s"}) as server:
        c = server.login("u1")
        put(c, [(A, b'"1"')])
        w = Watch(server.login("u1"), b'"" /private').catch_up()
        db = sqlite3.connect(directory(server, "u1") + "/store.db")
        db.execute("UPDATE meta SET modseq = modseq + 1")
        db.execute("UPDATE entry SET modseq = (SELECT modseq FROM meta), value = x'32'")
        db.commit()
        db.close()
        w.until("marker")
        assert w.state == {(b"", A): b"2"}
        w.done()


def test_restored_backup(server, user):
    """An older copy in the place of the store: everybody starts from a snapshot."""
    d = directory(server, user)
    c = server.login(user)
    put(c, [(A, b'"backup"')])
    c.logout()
    await_closed(d)
    shutil.copytree(d, d + "-copy")
    c = server.login(user)
    put(c, [(A, b'"lost"')])
    w = Watch(c, b'"" /private').catch_up().done()
    c.logout()
    server.await_no_session(user)
    shutil.rmtree(d)
    os.rename(d + "-copy", d)
    for path in [d] + [os.path.join(d, name) for name in os.listdir(d)]:
        owned(server, path)
    w.client = server.login(user)
    w.catch_up(w.mark)
    assert any(line.startswith(b"* OK [XMETASYNC RESET]") for line in w.log)
    assert w.state == {(b"", A): b"backup"}
    w.done()
