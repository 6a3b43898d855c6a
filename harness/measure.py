"""How long a program runs, and how much memory it has had at most. It is started by a small process of its own, since Linux
counts the memory of who has started a program as the program's."""

import os
import subprocess
import sys
import tempfile
import time


def measure(command, **kwargs):
    """Runs the program to its end; returns seconds, KiB, and what subprocess.run() returns with these kwargs."""
    with tempfile.NamedTemporaryFile("r") as figures:
        done = subprocess.run([sys.executable, os.path.abspath(__file__), figures.name, *command], **kwargs)
        seconds, kib = figures.read().split()
        return float(seconds), int(kib), done


def main():
    figures, *command = sys.argv[1:]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    with open(figures, "w") as f:
        f.write("%f %d" % (time.perf_counter() - start, usage.ru_maxrss))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
