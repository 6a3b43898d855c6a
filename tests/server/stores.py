"""A user's store on the disk, as an operator finds it: where it is, and ways to break it while no session is there."""

import os
import shutil
import sqlite3
import time

from metasync import put


def await_closed(path):
    """Until nobody has the store open: who closes it last removes the log and then its index."""
    end = time.monotonic() + 60
    while any(os.path.exists(path + "/store.db" + suffix) for suffix in ("-wal", "-shm")):
        assert time.monotonic() < end, "the store is not closed"
        time.sleep(0.01)


def directory(server, user):
    return os.path.join(server.home(user), "metasync")


def owned(server, path):
    """Files that the test makes belong to the user of the mail processes."""
    if os.getuid() == 0:
        os.chown(path, server.mail_uid, server.mail_gid, follow_symlinks=False)


def prepare(server, user, make, pairs=((b"/private/vendor/test/a", b'"old"'),)):
    """The home exists, the session is not there yet: make(server, directory) breaks the store."""
    c = server.login(user)
    put(c, pairs)
    c.logout()
    server.await_no_session(user)
    make(server, directory(server, user))


# -- ways to break it ------------------------------------------------------------------------------

def file_instead(server, d):
    shutil.rmtree(d)
    with open(d, "w"):
        pass
    owned(server, d)


def linked(server, d):
    os.rename(d, d + "-elsewhere")
    os.symlink(d + "-elsewhere", d)
    owned(server, d)


def linked_database(server, d):
    os.rename(d + "/store.db", d + "/elsewhere")
    os.symlink("elsewhere", d + "/store.db")
    owned(server, d + "/store.db")


def another_users(server, d):
    """Only root can."""
    os.chown(d, server.mail_uid + 1, server.mail_gid)


def writable_by_others(server, d):
    os.chmod(d, 0o770)


def not_writable(server, d):
    shutil.rmtree(d)
    os.chmod(os.path.dirname(d), 0o500)


def not_writable_itself(server, d):
    os.chmod(d, 0o500)


def not_writable_and_empty(server, d):
    shutil.rmtree(d)
    os.mkdir(d, mode=0o500)
    owned(server, d)


def newer(server, d):
    db = sqlite3.connect(d + "/store.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    for name in os.listdir(d):
        owned(server, os.path.join(d, name))


def damaged(content):
    def make(server, d):
        path = d + "/store.db"
        size = os.path.getsize(path)
        with open(path, "r+b") as f:
            if content == "zeros":
                f.write(bytes(size))
            elif content == "garbage":
                f.write(b"garbage!" * (size // 8))
            elif content == "pages":
                # all but the first one, in which the schema is
                f.seek(2048)
                f.write(b"garbage!" * (size // 8 - 256))
            else:
                f.truncate(size // 2 + 100)
    return make
