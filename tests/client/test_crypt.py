"""Encryption between two devices through a real Dovecot, whose files are read: there is no clear text in them."""

import os

import pytest

ROOT = "/private/vendor/t"
SUBTREE = ROOT + "/notes"
FIRST, SECOND = "pass:correct horse battery staple", "pass:another passphrase, long enough"
LOCKED = 8


@pytest.fixture
def devices(driver):
    driver.open("a")
    driver.open("b")
    return driver


def on_disk(server, user):
    """{path: octets} of all that the server has of the user, write-ahead logs included."""
    found = {}
    for folder, _, names in os.walk(os.path.join(server.root, "home", user)):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    found[path] = file.read()
    return found


def begin(driver, server, user, hide=False):
    driver.once("a", server, user)
    driver("crypt begin", "a", SUBTREE, FIRST, "hide" if hide else "-")
    driver.once("a", server, user)


def test_nothing_in_clear_text_on_the_server(devices, server, user):
    """Values and hidden names of two devices, written, changed and removed, over a rotation: read what the server has."""
    begin(devices, server, user, hide=True)
    devices.set("a", ("", SUBTREE + "/unlikely-name", b"unlikely value 1"), ("", ROOT + "/clear", b"clear value"))
    devices.once("a", server, user)
    devices.once("b", server, user)
    devices("crypt unlock", "b", SUBTREE, FIRST, "-")
    assert devices.list("b") == {("", SUBTREE + "/unlikely-name"): b"unlikely value 1", ("", ROOT + "/clear"): b"clear value"}
    devices.set("b", ("", SUBTREE + "/folder-name/other", b"unlikely value 3" * 5000))
    devices.set("b", ("", SUBTREE + "/unlikely-name", b"unlikely value 4"))
    devices.once("b", server, user)
    devices("crypt rotate", "b", SUBTREE, SECOND, "new")
    devices.once("b", server, user)
    devices.once("a", server, user)
    devices("crypt unlock", "a", SUBTREE, FIRST, "-", status="wrong key")
    devices("crypt unlock", "a", SUBTREE, SECOND, "-")
    assert devices.get("a", "", SUBTREE + "/unlikely-name") == b"unlikely value 4"
    assert devices.get("a", "", SUBTREE + "/folder-name/other") == b"unlikely value 3" * 5000
    devices("unset", "a", "", SUBTREE + "/folder-name/other")
    devices.once("a", server, user)
    files = on_disk(server, user)
    everything = b"".join(files.values())
    # this is where it would be: what is not encrypted is found, and so are the sealed values
    assert b"clear value" in everything and b"dt1:" in everything and b"dtk1:" in everything
    for word in (b"unlikely", b"folder-name", b"other", b"correct horse", b"another passphrase"):
        assert word not in everything, [path for path, octets in files.items() if word in octets]
    assert not [e for e in devices.seen("notice") if e["notice"] == "rollback"]


def test_live(devices, server, user):
    """One device sees what the other writes, while both are connected; the locked one becomes readable."""
    begin(devices, server, user)
    devices.sync("a", server, user)
    devices.sync("b", server, user)
    devices.state("live", replica="a")
    devices.state("live", replica="b")
    devices.set("a", ("", SUBTREE + "/x", b"secret"))
    assert devices.wait("change", replica="b", name=SUBTREE + "/x")["flags"] == LOCKED
    devices("crypt unlock", "b", SUBTREE, FIRST, "-")
    assert devices.get("b", "", SUBTREE + "/x") == b"secret"
    devices.set("b", ("", SUBTREE + "/x", b"secret, too"))
    assert devices.wait("change", replica="a", name=SUBTREE + "/x")["value"] == b"secret, too"


def test_too_large_for_the_server(devices, server, user):
    """The sealed value is what counts against the server's limit."""
    begin(devices, server, user)
    # 1 MiB at the server; base64 makes 4/3 of it
    devices.set("a", ("", SUBTREE + "/fits", os.urandom(760_000)), ("", SUBTREE + "/other", b"x"))
    answer = devices.set("a", ("", SUBTREE + "/large", os.urandom(900_000)), status="limit")
    assert "octets when it is encrypted, the server takes 1048576" in answer["text"]
    devices.once("a", server, user)
    assert not devices.refused("a")
    devices.once("b", server, user)
    devices("crypt unlock", "b", SUBTREE, FIRST, "-")
    assert set(devices.list("b")) == {("", SUBTREE + "/fits"), ("", SUBTREE + "/other")}


def test_another_client_renames_a_mailbox(driver, server, user, client):
    """The server moves sealed values to another mailbox; they stay readable, and nobody raises an alarm."""
    c = client(user)
    c.command(b"CREATE Old")
    parts = (("mailbox", "", ROOT), ("personal", "", ROOT))
    driver.open("a", parts=parts)
    driver.open("b", parts=parts)
    begin(driver, server, user, hide=True)
    driver.set("a", ("Old", SUBTREE + "/x", b"moves along"))
    driver.once("a", server, user)
    driver.once("b", server, user)
    driver("crypt unlock", "b", SUBTREE, FIRST, "-")
    c.command(b"RENAME Old New")
    driver.once("b", server, user)
    assert driver.list("b") == {("New", SUBTREE + "/x"): b"moves along"}
    assert not [e for e in driver.seen("notice") if e["notice"] == "rollback"]
