"""Servers and clients for the tests (imported by conftest.py). One server for a test file, a user of its own for each test."""

import contextlib
import itertools
import os
import signal

import pytest

from harness.server import Server

numbers = itertools.count(1)

# a shell's "&" and nohup have these ignored, and so would the programs that are tested
signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(ignored, signal.SIG_DFL)


def end(server):
    """Stops it; a crash, a leak or a process that does not end fails the tests that used it."""
    try:
        server.close_clients()
        server.stop()
        server.assert_clean()
    finally:
        server.destroy()


@pytest.fixture(scope="module")
def server():
    s = Server(plugin={"long_command_test_path": "%h/wake"})
    yield s
    end(s)


def factory():
    """Makes servers; each that the tests have not ended themselves is ended and looked at."""
    servers = []

    def make(**kwargs):
        servers.append(Server(**kwargs))
        return servers[-1]
    yield make
    # one that is not clean does not keep the others from being ended
    with contextlib.ExitStack() as ends:
        for s in servers:
            if not s.destroyed:
                ends.callback(end, s)


@pytest.fixture(scope="module")
def make_module_server():
    """Servers with other settings that live as long as the file's tests."""
    yield from factory()


@pytest.fixture
def make_server():
    yield from factory()


@pytest.fixture
def user():
    return "u%d-%d" % (os.getpid(), next(numbers))


@pytest.fixture
def client(server, request):
    """Logs users in; on failure shows what went over the wire."""
    clients = []

    def login(user, **kwargs):
        clients.append(server.login(user, **kwargs))
        return clients[-1]
    yield login
    report = getattr(request.node, "report_call", None)
    if report is not None and report.failed:
        for i, c in enumerate(clients):
            print("-- connection %d\n%s" % (i + 1, c.tail()))
        print("-- log\n" + server.log()[-2000:])
    for c in clients:
        c.close()
        server.clients.remove(c)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())
