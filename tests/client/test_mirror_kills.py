"""dovetail mirror, killed: at each step, and again and again."""

import os
import signal
import time

from mirror import FAULT, end, turns, until


def test_killed_at_each_step(pair):
    """Once at each call that changes a name in a folder or makes something durable. What was brought in step and what was not is told
    apart afterwards: each value is the newest, each removal is one, and nothing is in conflict."""
    a, b = pair
    expected = {}

    def put(device, name, data):
        device.write(name, data)
        expected[name.encode()] = data.encode()
    for device in pair:
        for name in ("kept", "changed", "folder"):
            put(device, name + device.home[-1], "0")
    turns(a, b, a)
    step = 0
    while True:
        step += 1
        for device in pair:
            own = device.home[-1]
            put(device, "changed" + own, "%d by %s" % (step, own))
            put(device, "new%d%s" % (step, own), "new")
            if step > 1:
                os.remove(device.path("new%d%s" % (step - 1, own)))
                expected.pop(b"new%d%s" % (step - 1, own.encode()))
        # an entry with others below it, and without
        if step % 4 == 0:
            b.run("set", "folderb/in", "below")
        elif step % 4 == 2 and step > 2:
            b.run("rm", "folderb/in")
        b.once()
        code = a.run("mirror", "--once", a.folder, code=None,
                     env={"LD_PRELOAD": FAULT, "MIRROR_KILL_AT": str(step)}).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        # it goes on being edited, before anybody has looked
        for name in ("changeda", "new%da" % step):
            put(a, name, "%d again" % step)
        turns(a, b)
        below = {b"folderb/in": b"below"} if step % 4 in (0, 1) and step > 1 else {}
        for device in pair:
            shown = {name.replace(b"/%=", b""): data for name, data in device.files().items()}
            assert {**expected, **below} == shown, (step, device.home)
    # it was killed that often
    assert step > 30


def test_killed_at_each_step_of_the_first_start(devices):
    step = code = 0
    while step == 0 or code != 0:
        step += 1
        a = devices("a%d" % step)
        a.write("x", "1")
        subtree = ["--subtree", "s%d" % step]
        code = a.run("mirror", "--once", *subtree, a.folder, code=None,
                     env={"LD_PRELOAD": FAULT, "MIRROR_KILL_AT": str(step)}).returncode
        assert code in (0, -signal.SIGKILL)
        a.write("x", "again")
        assert a.once(*subtree) == ""
        assert a.files() == {b"x": b"again"}
    assert step > 15


def test_what_a_kill_has_left_goes_to_the_trash(devices):
    a = devices("a")
    a.write("x", "1")
    a.once()
    a.write(".dovetail/tmp/0123456789abcdef", "was being exchanged")
    a.once()
    assert a.trash() == {b"0123456789abcdef": [b"was being exchanged"]}
    assert os.listdir(a.path(".dovetail/tmp")) == []


def test_killed_again_and_again(pair):
    a, b = pair
    b.begin()
    expected = {}
    for n in range(12):
        a.begin()
        for k in range(10):
            name = "f%d" % ((n * 10 + k) % 30)
            expected[name.encode()] = b"%d-%d" % (n, k)
            a.write(name, expected[name.encode()])
        time.sleep(0.05 * (n % 6))
        a.kill()
    a.begin()
    expected[b"last"] = b"1"
    a.write("last", "1")
    until(lambda: b.files() == expected, "the same")
    assert a.files() == expected
    end(a, b)
