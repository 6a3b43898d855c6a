"""A terminal for the tests: a process at a pty, what it shows, and what is typed."""

import os
import pty
import re
import select
import signal
import termios
import time

from cli import DOVETAIL


class Terminal:
    """Runs dovetail on machine with a pty as its controlling terminal; args as for Machine.run()."""

    def __init__(self, machine, *args, env=None, program=DOVETAIL, stdout=None):
        self.shown = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                # as a terminal starts programs; the tests may run in the background, where shells ignore it
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.chdir(machine.home)
                if stdout is not None:
                    os.dup2(stdout, 1)
                os.execve(program, [program, *args], {**machine.env, **(env or {})})
            finally:
                os._exit(127)

    def _read(self, timeout):
        if not select.select([self.fd], [], [], timeout)[0]:
            return None
        try:
            return os.read(self.fd, 65536)
        except OSError:
            return b""

    def await_text(self, text, timeout=30):
        """Until it was shown (a regular expression); returns what was shown up to there, and forgets it."""
        deadline = time.monotonic() + timeout
        while True:
            match = re.search(text.encode(), self.shown)
            if match:
                before, self.shown = self.shown[:match.end()], self.shown[match.end():]
                return before.decode(errors="replace")
            data = self._read(max(0, deadline - time.monotonic()))
            if not data:
                # nobody else would
                os.kill(self.pid, signal.SIGKILL)
            assert data, "%r was not shown: %r" % (text, self.shown)
            self.shown += data

    def type(self, text):
        os.write(self.fd, text.encode())

    def echoes(self):
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def await_echo(self, on):
        deadline = time.monotonic() + 30
        while self.echoes() != on:
            assert time.monotonic() < deadline, "echo stays"
            time.sleep(0.005)

    def end(self, timeout=60):
        """Reads to the end; the exit code (128 + n for signals) and all that was shown since await_text()."""
        deadline = time.monotonic() + timeout
        while True:
            data = self._read(max(0, deadline - time.monotonic()))
            if data is None:
                os.kill(self.pid, signal.SIGKILL)
            if not data:
                break
            self.shown += data
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        assert data is not None, "it does not end: %r" % self.shown
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        return code, self.shown.decode(errors="replace")
