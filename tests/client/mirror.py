"""A folder that is mirrored, for the tests of dovetail mirror."""

import base64
import json
import os
import signal
import time

from cli import PREFIX, Machine
from harness.server import BUILD

# see mirror-fault.c
FAULT = os.path.join(BUILD, "tests/client/libmirror_fault.so")
PATIENCE = 60 * float(os.environ.get("DOVETAIL_PATIENCE", "1"))


def until(condition, what="it"):
    """Waits until the condition is true, and returns its value."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "%s does not happen" % what
        time.sleep(0.02)


class Device(Machine):
    """A machine with the folder d, which can be mirrored."""

    def __init__(self, home, server, user, **keys):
        super().__init__(home, server, user, max_backoff=1, **keys)
        self.folder = os.path.join(self.home, "d")
        os.makedirs(self.folder, exist_ok=True)
        self.process = None
        self.log = self.home + "/log"

    def path(self, name):
        return os.path.join(os.fsencode(self.folder), os.fsencode(name))

    def write(self, name, data=b"x"):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())

    def read(self, name):
        try:
            with open(self.path(name), "rb") as f:
                return f.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def files(self):
        """All regular files, without our own folder: name to content."""
        out = {}
        top = os.fsencode(self.folder)
        for folder, folders, names in os.walk(top):
            if folder == top and b".dovetail" in folders:
                folders.remove(b".dovetail")
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    try:
                        with open(path, "rb") as f:
                            out[os.path.relpath(path, top)] = f.read()
                    except FileNotFoundError:
                        pass
        return out

    def trash(self):
        """Contents of the trash: names without the date, to lists of contents."""
        out = {}
        top = os.fsencode(self.folder + "/.dovetail/trash")
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    out.setdefault(b"/".join(os.path.relpath(path, top).split(b"/")[1:]), []).append(f.read())
        return out

    def once(self, *args, code=0, **kwargs):
        """To the end; what it says on stderr."""
        return self.run("mirror", "--once", *args, self.folder, code=code, **kwargs).stderr.decode()

    def begin(self, *args, **kwargs):
        """A live mirror."""
        assert self.process is None
        with open(self.log, "ab") as log:
            self.process = self.start("mirror", *args, self.folder, stdout=log, stderr=log, **kwargs)
        return self

    def end(self, code=0):
        self.process.send_signal(signal.SIGTERM)
        got = self.process.wait(PATIENCE)
        self.process = None
        assert got == code, (got, self.words())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def words(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def await_file(self, name, data):
        data = data if data is None or isinstance(data, bytes) else data.encode()
        until(lambda: self.read(name) == data, "%r with %r" % (name, data))

    def position(self):
        """The server's position, which grows by one with each change set."""
        self.run("sync")
        return int(json.loads(self.run("status", "--json").stdout)["modseq"])

    def entries(self):
        """What is on the server: short names to values."""
        out = {}
        for line in self.run("export", "--online").stdout.splitlines():
            entry = json.loads(line)
            if "entry" in entry and entry["entry"].startswith(PREFIX):
                value = entry["value"].encode() if "value" in entry else base64.b64decode(entry["base64"])
                out[entry["entry"][len(PREFIX):]] = value
        return out


def turns(*devices):
    """Each is brought in step, one after the other."""
    for device in devices:
        device.once()


def begin(*devices):
    for device in devices:
        device.begin()


def end(*devices):
    for device in devices:
        device.end()


def conflicts(device):
    """The conflicting versions: names to contents."""
    return {name: data for name, data in device.files().items() if b".conflict-" in name}
