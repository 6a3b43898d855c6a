"""A person's machine for the tests of the command line: a home of its own, and dovetail run in it."""

import json
import os
import subprocess

from drive import VALGRIND
from harness.server import BUILD

DOVETAIL = os.path.join(BUILD, "src/cli/dovetail")
OK, FAILED, USAGE, OFFLINE, LOGIN, TLS, REFUSED, UNSUPPORTED, LOCKED, CONFIG, SYSTEM, MASS_REMOVAL = range(12)
PREFIX = "/private/vendor/dovetail/user/"


class Machine:
    """home: a new directory. Without server: no account yet. valgrind: what it finds is exit code 99."""

    def __init__(self, home, server=None, user="u1", valgrind=False, **keys):
        self.home = str(home)
        self.valgrind_log = self.home + "/valgrind"
        self.program = [*(VALGRIND + ["--log-file=" + self.valgrind_log] if valgrind else []), DOVETAIL]
        os.makedirs(self.home, exist_ok=True)
        self.env = {"HOME": self.home, "PATH": os.path.dirname(DOVETAIL) + ":/usr/bin:/bin", "LC_ALL": "C",
                    "TERM": "xterm"}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
            if name in os.environ:
                self.env[name] = os.environ[name]
        self.config = self.home + "/.config/dovetail/default.conf"
        self.state = self.home + "/.local/state/dovetail"
        if server is not None:
            self.account(**{"host": "127.0.0.1", "port": server.port, "tls": "none", "user": user, "password": "pass",
                            "timeout": 30, **keys})

    def account(self, text=None, name="default", mode=0o600, **keys):
        """Writes an account file, of keys (None: left out) or of text (bytes are fine)."""
        path = "%s/.config/dovetail/%s.conf" % (self.home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if text is None:
            text = "".join("%s = %s\n" % item for item in keys.items() if item[1] is not None)
        with open(path, "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        os.chmod(path, mode)
        return path

    def start(self, *args, env=None, **kwargs):
        """A process that goes on; its output and errors are pipes."""
        return subprocess.Popen([*self.program, *args], env={**self.env, **(env or {})}, cwd=self.home,
                                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                                   **kwargs})

    def run(self, *args, code=OK, input=b"", env=None, **kwargs):
        """Runs it to its end; the exit code must be as said (None: any)."""
        if isinstance(input, str):
            input = input.encode()
        if "stdin" not in kwargs:
            kwargs["input"] = input
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        done = subprocess.run([*self.program, *args], env={**self.env, **(env or {})}, cwd=self.home, timeout=120,
                              **kwargs)
        assert done.returncode != 99, open(self.valgrind_log).read()
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert b"Sanitizer" not in (done.stderr or b""), done.stderr
        return done

    def out(self, *args, **kwargs):
        """What it prints, as text; nothing on stderr."""
        done = self.run(*args, **kwargs)
        assert done.stderr == b"", done.stderr
        return done.stdout.decode()

    def error(self, code, *args, **kwargs):
        """Its one line on stderr, without "dovetail: "; it must end with this code."""
        done = self.run(*args, code=code, **kwargs)
        text = done.stderr.decode()
        assert text.startswith("dovetail: ") and text.endswith("\n") and text.count("\n") == 1, text
        return text[len("dovetail: "):-1]

    def lines(self, *args, **kwargs):
        """Its JSON lines."""
        return [json.loads(line) for line in self.out(*args, **kwargs).splitlines()]
