"""`./dev demo --once` and `./dev server`, as a person starts them."""

import re
import signal
import subprocess
import sys

import pytest

from harness.imap import Client
from harness.server import free_ports


def test_demo():
    result = subprocess.run([sys.executable, "-m", "demo", "--once"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.match(r"median push latency \d+\.\d\d ms, 5 steps held$", result.stdout.splitlines()[-1])
    assert result.stderr == ""


@pytest.mark.parametrize("module", ["demo", "harness.serve"])
def test_wrong_arguments(module):
    result = subprocess.run([sys.executable, "-m", module, "--bogus"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "--bogus" in result.stderr


def test_server(tmp_path):
    port = free_ports()
    keep = str(tmp_path / "state")
    command = [sys.executable, "-m", "harness.serve", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        for client in (Client(port, "anybody"), Client(port + 850, "anybody", tls=True)):
            assert b" OK " in client.command(b'XMETASYNC (ONCE) "" /private')[-1].line
            client.close()
        # the port is taken now
        other = subprocess.run(command + ["--keep", keep], capture_output=True, text=True, timeout=60)
        assert other.returncode == 1 and len(other.stderr.splitlines()) == 1 and str(port) in other.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stdout.close()
    with pytest.raises(ConnectionRefusedError):
        Client(port)


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "65000"], ["--port", "x"],
                                       ["--keep", "/dev/null/x"]])
def test_server_wrong_arguments(arguments):
    result = subprocess.run([sys.executable, "-m", "harness.serve"] + arguments, capture_output=True, text=True,
                            timeout=60)
    assert result.returncode == 2 and arguments[0] in result.stderr
