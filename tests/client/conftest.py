from harness.fixtures import *  # noqa: F401,F403  (fixtures and hooks for pytest)
from mirror import devices, network, pair  # noqa: F401
