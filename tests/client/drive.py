"""Drives tests/client/driver.c: a program on libdovetail's public API. Commands go in as lines, replies and callbacks
come out as lines of JSON; values are bytes here."""

import json
import os
import selectors
import subprocess
import tempfile
import time

from harness.imap import PATIENCE
from harness.server import BUILD

DRIVER = os.path.join(BUILD, "tests/client/driver")
VALGRIND = ["valgrind", "-q", "--vgdb=no", "--error-exitcode=99", "--leak-check=full",
            "--errors-for-leak-kinds=definite,indirect", "--show-leak-kinds=definite,indirect"]
PENDING, REFUSED, NOT_HERE = 1, 2, 4


class Died(AssertionError):
    """The driver is gone."""


def octets(value):
    return None if value is None else bytes.fromhex(value)


class Driver:
    """One process. Replicas have names; the file of one is in self.directory, unless given. kill() as kill -9."""

    def __init__(self, directory=None, valgrind=False):
        self.own = None if directory else tempfile.TemporaryDirectory(prefix="dt-driver-", dir="/tmp")
        self.directory = directory or self.own.name
        self.valgrind = valgrind or os.environ.get("DOVETAIL_DRIVER") == "valgrind"
        self.patience = PATIENCE * (5 if self.valgrind else 1)
        self.log = []
        self.events = []
        self.buffer = b""
        self.process = subprocess.Popen((VALGRIND if self.valgrind else []) + [DRIVER], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.set_blocking(self.process.stdout.fileno(), False)

    # -- lines

    def _read(self, deadline):
        """The next line, parsed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise AssertionError("nothing comes\n" + self.tail())
                data = self.process.stdout.read()
                if data == b"":
                    raise Died(self.process.stderr.read().decode() + self.tail())
                self.buffer += data or b""
        line, self.buffer = self.buffer.split(b"\n", 1)
        parsed = json.loads(line)
        for key in ("value", "base", "mine", "theirs"):
            if key in parsed:
                parsed[key] = octets(parsed[key])
        assert "no NUL" not in parsed, parsed
        self.log.append(parsed)
        return parsed

    def tail(self):
        return "\n".join(repr(line)[:300] for line in self.log[-40:])

    def send(self, *fields):
        self.process.stdin.write("\t".join(map(str, fields)).encode() + b"\n")
        self.process.stdin.flush()

    def reply(self, patience=None):
        deadline = time.monotonic() + (patience or self.patience)
        while True:
            line = self._read(deadline)
            if "reply" in line:
                return line
            self.events.append(line)

    def __call__(self, *fields, status="ok", patience=None):
        self.send(*fields)
        answer = self.reply(patience)
        assert status is None or answer["reply"] == status, (answer, self.tail())
        return answer

    def wait(self, event, patience=None, **fields):
        """The next event of this kind with these fields; what comes before it is passed over."""
        deadline = time.monotonic() + (patience or self.patience)
        while True:
            line = self.events.pop(0) if self.events else self._read(deadline)
            if line.get("event") == event and all(line.get(k) == v for k, v in fields.items()):
                return line

    def state(self, state, **fields):
        return self.wait("state", state=state, **fields)

    def seen(self, event, **fields):
        """All such events so far."""
        return [line for line in self.log
                if line.get("event") == event and all(line.get(k) == v for k, v in fields.items())]

    # -- replicas

    def path(self, name):
        return os.path.join(self.directory, name + ".replica")

    def open(self, name="r", parts=(("mailbox", "", "/private/vendor/t"),), path=None):
        self("open", name, path or self.path(name))
        if parts:
            self("parts", name, *[field for part in parts for field in part])

    def set(self, name, *writes, status="ok"):
        """(mailbox, entry, bytes or None) …: one set"""
        fields = [field for mailbox, entry, value in writes
                  for field in (mailbox, entry, "-" if value is None else value.hex())]
        return self("set", name, *fields, status=status)

    def get(self, name, mailbox, entry):
        """The value; None: none"""
        answer = self("get", name, mailbox, entry, status=None)
        assert answer["reply"] in ("ok", "not found"), answer
        return answer.get("value")

    def list(self, name="r"):
        """{(mailbox, entry): value}"""
        before = len(self.log)
        self("list", name)
        entries = [line for line in self.log[before:] if line.get("event") == "entry"]
        self.events = [line for line in self.events if line.get("event") != "entry"]
        return {(e["mailbox"], e["name"]): e["value"] for e in entries}

    def refused(self, name="r"):
        before = len(self.log)
        self("refused", name)
        return [line for line in self.log[before:] if line.get("event") == "was refused"]

    def sync(self, name, server, user, status="ok", **options):
        return self("sync", name, *self._options(server, user, options), status=status)

    def once(self, name, server, user, status="ok", patience=None, **options):
        return self("once", name, *self._options(server, user, options), status=status, patience=patience)

    @staticmethod
    def _options(server, user, options):
        port = server if isinstance(server, int) else server.port
        return ["port=%d" % port, "user=" + user] + ["%s=%s" % item for item in options.items()]

    # -- the end

    def kill(self):
        self.process.kill()
        self._reap()

    def end(self):
        """In order; nothing leaks under valgrind."""
        if self.process.returncode is None:
            os.set_blocking(self.process.stdout.fileno(), True)
            _, error = self.process.communicate(timeout=self.patience)
            error = error.decode()
            assert self.process.returncode == 0, "exit code %d\n%s" % (self.process.returncode, error)

    def _reap(self):
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.end()
            else:
                self.process.kill()
                self._reap()
        finally:
            if self.own:
                self.own.cleanup()
