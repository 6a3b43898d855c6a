"""The life of a long command, as a matrix: a session is brought to each entry point, then each kind of
end happens. After every end: finish() came exactly once and for the right reason, the client got the
right answer or the end of its connection, a bystander's session still works, and no process spins.

The matrix runs with a process for each session and with one process for all of them ("shared"), where the
bystander is a session of the same user that waits for the same file. Ends that come to all sessions of a
process or a server: test_lifecycle_many.py."""

import pytest

from lifecycle_matrix import ENDS, ENTRIES, Place


@pytest.fixture(scope="module", params=["own", "shared"])
def place(request, make_module_server):
    p = Place(make_module_server, request.param)
    yield p
    p.leave()


@pytest.mark.parametrize("end", [pytest.param(end, marks=pytest.mark.valgrind) if end in ("done", "reset") else end
                                 for end in ENDS])
@pytest.mark.parametrize("entry", ENTRIES)
def test_one_session_ends(place, entry, end):
    place.check_end(entry, end)


def test_nobody_spins_while_waiting(place):
    """All entry points at the same time, also with clients that will send nothing more."""
    sessions = [place.enter(entry, "quiet") for entry in ENTRIES if entry != "mailbox"]
    half = [place.session(entry, "quiet-half") for entry in ("done", "blocked")]
    for s, entry in zip(half, ("done", "blocked")):
        s.later = b"100000"
        ENTRIES[entry](s)
        s.client.half_close()
    place.check_quiet()
    for s in sessions + half:
        s.client.reset()
        assert s.await_finish() in ("cancelled", "ended")
    place.bystander.check()
