"""The parts of the tests' own machinery that have been wrong once."""

import socket
import subprocess

import pytest

from harness.server import connection_pid


def test_connection_pid_while_it_is_handed_on():
    """Two processes have it: it is not known yet whose it will be."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            where = client.getsockname()[1], port
            with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[accepted.fileno()]) as other:
                with pytest.raises(LookupError):
                    connection_pid(*where, patience=0.1)
                accepted.close()
                assert connection_pid(*where) == other.pid
                other.stdin.close()
            with pytest.raises(LookupError):
                connection_pid(*where, patience=0.1)
