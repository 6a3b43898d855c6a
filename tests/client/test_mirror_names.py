"""dovetail mirror and names: any octets in files, tricks in entries, dots, links and what is no file."""

import os
import socket
import subprocess

import pytest

from cli import FAILED, SYSTEM
from mirror import begin, end, turns, until

NAMES = [b"README", b"Makefile.AM", b"a b", b"=3d", b"^x", b"100%", b"*", b"\xc3\xa4\xf0\x9f\x98\x80", b"\xff\xfe", b"tab\there",
         b"line\nbreak", b"%=", b"%=x", b"%=x=zz", b"...", b".hidden", b"..x", b"con", b"x" * 255, b"\"quoted\\\"", b"{3}", b"(",
         b"-rf"]


def test_names_of_any_octets(pair):
    a, b = pair
    for n, name in enumerate(NAMES):
        if name != b"%=":
            a.write(name, "%d" % n)
    a.once("--dot-files")
    b.once("--dot-files")
    assert b.files() == a.files()
    assert len(b.files()) == len(NAMES) - 1


def test_dot_files_are_left_alone_on_both_sides(pair):
    a, b = pair
    a.write(".git/hooks/post-checkout", "harm")
    a.write("x", "1")
    a.write("sub/.profile", "harm")
    assert a.once("--dot-files") == ""
    b.write(".local", "mine")
    words = b.once()
    assert words.count("names that begin with a dot are left alone") == 1 and "--dot-files" in words
    assert b.files() == {b"x": b"1", b".local": b"mine"}
    assert ".local" not in a.entries()
    # what is left alone is no removal, on neither side
    os.remove(a.path("sub/.profile"))
    a.once()
    assert set(a.entries()) == {"x", ".git/hooks/post-checkout", "sub/.profile"}
    b.begin()
    b.write(".new", "2")
    a.write("y", "3")
    a.once("--dot-files")
    b.await_file("y", "3")
    b.end()
    assert set(a.entries()) == {"x", "y", ".git/hooks/post-checkout"}
    b.once("--dot-files")
    a.once("--dot-files")
    assert a.files() == b.files() and len(b.files()) == 5


def test_mirror_in_a_mirror_stays_out_of_it(pair):
    a, b = pair
    a.write("sub/.dovetail/mirror", "0" * 32)
    a.write("sub/.dovetail/trash/20260101-000000/x", "removed")
    a.write("sub/x", "1")
    a.once("--dot-files")
    assert a.entries() == {"sub/x": b"1"}
    a.run("set", "sub/=2edovetail/lock", "by others")
    turns(a, b)
    assert b.once("--dot-files") == "" and b.files() == {b"sub/x": b"1"}


def test_tricks_in_entry_names(server, user, devices):
    a = devices("a")
    tricks = ["..", ".", "../../escape", "x/../y", "=2edovetail/mirror", "x/=2edovetail", "=2e=2e/z", "=2f", "=00", "sub/..", "=zz", "^", "a=4",
              "=2edovetail", "./.", "%="[1:] + "=", "~", "-", " ", "c" * 253, "=41"]
    for n, name in enumerate(tricks):
        a.run("set", name, "value %d" % n)
    a.once("--all")
    # this one would be in a mirror that somebody has in a folder below
    inner = tricks.index("x/=2edovetail")
    assert len(a.read(".dovetail/mirror")) == 32
    assert sorted(a.files().values()) == sorted(b"value %d" % n for n in range(len(tricks)) if n != inner)
    assert sorted(os.listdir(a.home)) == [".config", ".local", "d"]
    # and back: an edit of each comes to the entry that it is from
    for name in a.files():
        a.write(name, b"edited " + a.files()[name])
    a.once("--all")
    assert a.entries() == {name: b"edited value %d" % n if n != inner else b"value %d" % n for n, name in enumerate(tricks)}


def test_entry_that_cannot_be_a_file(devices):
    a = devices("a")
    a.run("set", "d" * 300, "long")
    a.run("set", "short", "1")
    assert "cannot be a file's name" in a.once()
    assert a.files() == {b"short": b"1"}
    a.once()
    assert set(a.entries()) == {"d" * 300, "short"}


def test_file_that_cannot_be_an_entry(devices):
    a = devices("a")
    name = "/".join(["x" * 250] * 5)
    a.write(name, "too deep")
    a.write("\u20ac" * 85, "1")
    assert "too long" in a.once()
    assert len(a.entries()) == 1
    assert a.read(name) == b"too deep"


def test_entry_with_others_below_it(pair):
    a, b = pair
    a.write("a", "value of a")
    turns(a, b)
    a.run("set", "a/b", "below")
    a.run("set", "a/b/c", "deeper")
    turns(a, b)
    expected = {b"a/%=": b"value of a", b"a/b/%=": b"below", b"a/b/c": b"deeper"}
    assert a.files() == b.files() == expected
    b.write("a/%=", "edited")
    turns(b, a)
    assert a.entries() == {"a": b"edited", "a/b": b"below", "a/b/c": b"deeper"}
    # and back to files, in the folder of who removes and in the other's
    os.remove(a.path("a/b/c"))
    turns(a, b)
    assert a.files() == b.files() == {b"a/%=": b"edited", b"a/b": b"below"}
    b.run("rm", "a/b")
    turns(a, b)
    assert a.files() == b.files() == {b"a": b"edited"}
    # the subtree itself
    a.run("set", "/private/vendor/dovetail/user", "top")
    a.once()
    assert a.read("%=") == b"top"


# ---- Links, devices, rights ----

def test_links_are_not_followed(pair, tmp_path):
    a, b = pair
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    os.symlink(outside, a.path("folder"))
    os.symlink(outside / "secret", a.path("file"))
    os.mkfifo(a.path("pipe"))
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(a.folder)
        s.bind("socket")
    a.write("real", "1")
    os.link(a.path("real"), a.path("hard"))
    words = a.once()
    for name in ("folder", "file", "pipe", "socket"):
        assert "%s: " % name in words
    assert a.entries() == {"real": b"1", "hard": b"1"}
    # what comes for such a name does not go through it
    b.write("folder/new", "by b")
    b.write("file", "by b")
    b.once()
    words = a.once()
    assert "symbolic link" in words
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert os.path.islink(a.path("file"))
    b.once()
    assert b.read("file") == b"by b"


def test_file_that_becomes_a_link_is_not_removed_elsewhere(pair, tmp_path):
    a, b = pair
    a.write("x", "1")
    a.write("sub/y", "2")
    begin(a, b)
    b.await_file("sub/y", "2")
    b.await_file("x", "1")
    (tmp_path / "evil").mkdir()
    os.rename(a.path("x"), tmp_path / "x")
    os.symlink(tmp_path / "x", a.path("x"))
    os.rename(a.path("sub"), tmp_path / "sub")
    os.symlink(tmp_path / "evil", a.path("sub"))
    until(lambda: "x: a symbolic link" in a.words())
    b.write("sub/y", "changed")
    b.write("sub/z", "new")
    until(lambda: "sub/z" in a.words())
    assert b.read("x") == b"1" and b.read("sub/y") == b"changed"
    assert os.listdir(tmp_path / "evil") == []
    end(a, b)


def test_folder_of_ours_may_be_no_link(devices, tmp_path):
    a = devices("a")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", a.path(".dovetail"))
    a.once(code=SYSTEM)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_folder_that_cannot_be_read_is_told_and_removes_nothing(pair):
    a, b = pair
    a.write("d/x", "1")
    a.write("y", "2")
    turns(a, b)
    # for root, too
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    os.chmod(a.path("d"), 0)
    try:
        if bound and subprocess.run(bound + ["ls", a.path("d")], capture_output=True).returncode == 0:
            pytest.skip("setpriv does not help")
        a.write("y", "3")
        done = subprocess.run(bound + ["dovetail", "mirror", "--once", a.folder], env=a.env, capture_output=True, text=True)
        assert done.returncode == FAILED
        assert "dovetail: d: Permission denied\n" in done.stderr and "d/x: Permission denied; it is tried again\n" in done.stderr
    finally:
        os.chmod(a.path("d"), 0o755)
    b.once()
    assert b.files() == {b"d/x": b"1", b"y": b"3"}
    # one in which nothing was in step yet
    os.mkdir(a.path("e"), 0)
    done = subprocess.run(bound + ["dovetail", "mirror", "--once", a.folder], env=a.env, capture_output=True, text=True)
    assert done.returncode == FAILED
    assert done.stderr == "dovetail: e: Permission denied\ndovetail: 1 folders could not be read\n"
    os.rmdir(a.path("e"))
