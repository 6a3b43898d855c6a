"""The test vectors of the encryption, read by a decoder that was written from docs/encryption.md alone.

Only the primitives are shared with the library (libsodium, by ctypes, for Argon2id and the AEAD; BLAKE2b is hashlib's).
"""

import base64
import ctypes
import hashlib
import json
import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
KEY = bytes(range(100, 132))
SODIUM = ctypes.CDLL("libsodium.so.23")


def unbase64(prefix: str, text: str) -> bytes:
    """The octets behind a prefix and base64 without padding."""
    assert text.startswith(prefix)
    text = text[len(prefix):]
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def keyed(key: bytes, data: bytes, size: int) -> bytes:
    """H(key, data, size) of the document."""
    return hashlib.blake2b(data, key=key, digest_size=size).digest()


def unseal(key: bytes, nonce: bytes, bound: bytes, sealed: bytes) -> bytes:
    """Opens XChaCha20-Poly1305, or raises."""
    out = ctypes.create_string_buffer(len(sealed))
    size = ctypes.c_ulonglong()
    ret = SODIUM.crypto_aead_xchacha20poly1305_ietf_decrypt(
        out, ctypes.byref(size), None, sealed, ctypes.c_ulonglong(len(sealed)), bound, ctypes.c_ulonglong(len(bound)),
        nonce, key)
    if ret != 0:
        raise ValueError("forged")
    return out.raw[:size.value]


def argon2id(passphrase: bytes, salt: bytes, passes: int, kib: int) -> bytes:
    """32 octets of Argon2id, version 1.3, one lane."""
    out = ctypes.create_string_buffer(32)
    assert SODIUM.crypto_pwhash(out, ctypes.c_ulonglong(32), passphrase, ctypes.c_ulonglong(len(passphrase)), salt,
                                ctypes.c_ulonglong(passes), ctypes.c_size_t(kib * 1024), 2) == 0
    return out.raw


class Ring:
    """A ring, opened with a passphrase or a key."""

    def __init__(self, subtree: str, text: str, passphrase: bytes = None, key: bytes = None):
        data = unbase64("dtk1:", text)
        assert hashlib.blake2b(data[:-16], digest_size=16).digest() == data[-16:]
        data = data[:-16]
        self.subtree, self.id = subtree, data[:16]
        flags, self.epoch, count = data[16], int.from_bytes(data[17:21], "big"), data[21]
        self.hidden = bool(flags & 1)
        ring_key, at, self.labels = None, 22, []
        for _ in range(count):
            begin, kind, label_size = at, data[at], data[at + 1]
            at += 2
            self.labels.append(data[at:at + label_size].decode())
            at += label_size
            passes, kib = int.from_bytes(data[at:at + 4], "big"), int.from_bytes(data[at + 4:at + 8], "big")
            salt, check = data[at + 8:at + 24], data[at + 24:at + 40]
            at += 40
            bound, nonce, wrapped = data[begin:at], data[at:at + 24], data[at + 24:at + 76]
            at += 76
            if kind == 1 and passphrase:
                kek = argon2id(passphrase, salt, passes, kib)
            elif kind == 2 and key:
                kek = keyed(key, b"dovetail key file 1" + salt, 32)
            else:
                continue
            if keyed(kek, b"dovetail check 1", 16) != check:
                continue
            opened = unseal(keyed(kek, b"dovetail wrap 1", 32), nonce, b"dovetail slot 1" + self.id + bound, wrapped)
            assert int.from_bytes(opened[32:], "big") == self.epoch
            ring_key = opened[:32]
        if not ring_key:
            raise KeyError("wrong key")
        name = subtree.encode()
        bound = b"dovetail ring 1" + len(name).to_bytes(2, "big") + name + data[:at]
        body = unseal(ring_key, data[at:at + 24], bound, data[at + 24:])
        self.generation, self.names_key, self.readable = int.from_bytes(body[:8], "big"), body[8:40], body[40]
        self.keys = {body[42 + 40 * i:50 + 40 * i]: body[50 + 40 * i:82 + 40 * i] for i in range(body[41])}
        assert len(body) == 42 + 40 * body[41]

    def wire_name(self, name: str) -> str:
        """A name as on the server."""
        if not self.hidden or name == self.subtree:
            return name
        parts, out = name[len(self.subtree) + 1:].split("/"), self.subtree
        for i in range(len(parts)):
            digest = keyed(self.names_key, b"dovetail name 1" + "/".join(parts[:i + 1]).encode(), 16)
            out += "/" + base64.b32encode(digest).decode().rstrip("=").lower()
        return out

    def open(self, wire_name: str, text: str):
        """(kind, device, counter, name, value, padded size) of a sealed value."""
        data = unbase64("dt1:", text)
        bound = b"dovetail value 1" + self.id + data[:9] + wire_name.encode()
        plain = unseal(self.keys[data[1:9]], data[9:33], bound, data[33:])
        name_size = int.from_bytes(plain[16:18], "big")
        name, rest = plain[18:18 + name_size].decode(), plain[18 + name_size:]
        size = int.from_bytes(rest[:4], "big")
        assert not any(rest[4 + size:])
        name = f"{self.subtree}/{name}" if name else self.subtree
        return data[0], plain[:8], int.from_bytes(plain[8:16], "big"), name, rest[4:4 + size], len(plain)


@pytest.fixture(scope="module")
def vectors():
    """The ones that are kept."""
    return json.loads((HERE / "crypt-vectors.json").read_text())


def test_the_library_still_makes_them(tmp_path):
    """The formats have not changed by an octet."""
    path = tmp_path / "key"
    path.write_text(base64.b64encode(KEY).decode() + "\n")
    path.chmod(0o600)
    program = pathlib.Path(os.environ["DOVETAIL_BUILD"]) / "tests/client/crypt-vectors"
    out = subprocess.run([program, path], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert out == (HERE / "crypt-vectors.json").read_text()


@pytest.mark.parametrize("secret", ["passphrase", "key"])
def test_read_by_another_decoder(vectors, secret):
    """Ring, names and values as the document says, with both kinds of secrets."""
    given = {"passphrase": vectors["passphrase"].encode()} if secret == "passphrase" else {"key": KEY}
    ring = Ring(vectors["subtree"], vectors["ring"], **given)
    assert (ring.epoch, ring.generation, ring.readable, ring.labels) == (1, 1, 1, ["first", "second"])
    for value in vectors["values"]:
        assert ring.wire_name(value["name"]) == value["wire_name"]
        kind, device, counter, name, data, padded = ring.open(value["wire_name"], value["wire_value"])
        assert (kind, device, counter) == (1, b"deviceAB", 1700000000000)
        assert (name, data.decode()) == (value["name"], value["value"])
        assert padded == (640 if len(data) == 600 else 256)
        with pytest.raises(ValueError):
            ring.open(value["wire_name"] + "x", value["wire_value"])


def test_rotation_read_by_another_decoder(vectors):
    """The new ring has the old key, the old secrets are gone, names are the same."""
    with pytest.raises(KeyError):
        Ring(vectors["subtree"], vectors["ring_rotated"], passphrase=vectors["passphrase"].encode())
    ring = Ring(vectors["subtree"], vectors["ring_rotated"], key=KEY)
    assert (ring.epoch, ring.generation, ring.readable, ring.labels) == (2, 2, 2, ["third"])
    for value in vectors["values"] + vectors["values_rotated"]:
        assert ring.wire_name(value["name"]) == value["wire_name"]
        assert ring.open(value["wire_name"], value["wire_value"])[4] == value["value"].encode()
    first = Ring(vectors["subtree"], vectors["ring"], key=KEY)
    with pytest.raises(KeyError):
        first.open(vectors["values_rotated"][0]["wire_name"], vectors["values_rotated"][0]["wire_value"])
