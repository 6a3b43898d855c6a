import pytest

from harness.fixtures import *  # noqa: F401,F403  (fixtures and hooks for pytest)
from mirror import Device
from proxy import Proxy
from syncing import driver, other  # noqa: F401  (fixtures)


@pytest.fixture
def network(server):
    """What is between devices(name, on=network) and the server, and can go down."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def devices(server, user, tmp_path):
    """Makes devices of one account (of this server, if it is not the tests' common one); live mirrors are ended."""
    made = []

    def make(name, on=server, **keys):
        made.append(Device(tmp_path / name, on, user, **keys))
        return made[-1]
    yield make
    for device in made:
        if device.process is not None:
            device.kill()


@pytest.fixture
def pair(devices):
    return devices("a"), devices("b")
