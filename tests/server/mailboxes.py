"""What the tests of the life of mailboxes share: mailboxes with entries, and what a session sees of them."""

import time

from metasync import Watch, ok, put

A = b"/private/vendor/test/a"

FORMATS = {
    "maildir": "maildir:~/mail",
    "maildir-fs": "maildir:~/mail:LAYOUT=fs",
    "sdbox": "sdbox:~/mail",
    "mdbox": "mdbox:~/mail",
    "mdbox-index": "mdbox:~/mail:LAYOUT=index",
}


def create(c, *names):
    """Mailboxes, each with its first name as the value of an entry."""
    for name in names:
        ok(c, b"CREATE " + name)
        put(c, [(A, b'"%s"' % name)], mailbox=name)


def state(c):
    """{mailbox: value}"""
    w = Watch(c, b"(PERSONAL) /private").catch_up().done()
    return {mailbox: value for (mailbox, _), value in w.state.items()}


def others(server, command, user, *args):
    """doveadm mailbox COMMAND by a process without the plugin."""
    done = server.doveadm("-o", "mail_plugins=", "mailbox", command, "-u", user, *args)
    assert done.returncode == 0, done.stderr


def rename(server, user, *names):
    for old, new in zip(names[::2], names[1::2]):
        others(server, "rename", user, old, new)


def away(server, user, *names):
    """The user has made mailboxes with entries, and has gone."""
    c = server.login(user)
    create(c, *names)
    c.logout()


def healed(server, user):
    """What the next session sees."""
    c = server.login(user)
    result = state(c)
    c.logout()
    return result


def await_sleep(pid):
    """Until the process sleeps between two tries to get a lock."""
    end = time.monotonic() + 10
    while True:
        with open("/proc/%d/wchan" % pid) as f:
            wchan = f.read()
        if "nanosleep" in wchan:
            return
        assert time.monotonic() < end, wchan
