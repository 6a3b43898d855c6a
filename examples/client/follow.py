#!/usr/bin/env python3
"""Keeps settings of an account in step, live: prints "name value" for each change by others; a line "name value" on standard
input sets, "name" alone removes. Python's own imaplib, nothing else; two connections, one waits, one writes.

usage: PASSWORD=… follow.py [--once] HOST PORT USER STATEFILE     (port 993: TLS; --once: catches up, and ends)

STATEFILE has the bookmark and the entries: after a restart only what was missed is sent."""

import imaplib
import json
import os
import re
import sys
import threading

BASE = b"/private/vendor/example/"
TOKEN = re.compile(rb' *(?:(\()|(\))|"((?:[^"\\]|\\.)*)"|~?\{(\d+)\}\r\n|([^ ()"]+))')


def login(host, port, user):
    connection = (imaplib.IMAP4_SSL if port == 993 else imaplib.IMAP4)(host, port)
    connection.login(user, os.environ["PASSWORD"])
    return connection


def response(connection):
    """One response with its literals, from the wire."""
    line = connection.readline()
    while (literal := re.search(rb"\{(\d+)\}\r\n$", line)):
        line += connection.read(int(literal[1])) + connection.readline()
    if not line:
        raise EOFError("the server has closed the connection")
    return line


def tokens(data):
    """bytes for strings and atoms, None for NIL, "(" and ")"."""
    out, at = [], 0
    while at < len(data) and (token := TOKEN.match(data, at)):
        at = token.end()
        if token[4]:
            out.append(data[at:at + int(token[4])])
            at += int(token[4])
        elif token[3] is not None:
            out.append(re.sub(rb"\\(.)", rb"\1", token[3]))
        else:
            out.append(None if token[5] == b"NIL" else token[5] or token[0].strip().decode())
    return out


def follow(connection, path, once=False):
    """Waits for ever, unless once. What came since the last marker counts only once the next one is there."""
    state = {"mark": None, "entries": {}}
    if os.path.exists(path):
        with open(path) as file:
            state = json.load(file)
    since = "SINCE %s " % state["mark"] if state["mark"] else ""
    connection.send(b'w XMETASYNC (%sDEPTH infinity%s) "" %s\r\n' % (since.encode(), b" ONCE" if once else b"", BASE.rstrip(b"/")))
    arrived, reset = {}, False
    while True:
        line = response(connection)
        marker = re.match(rb"\* OK \[XMETASYNC (\(\d+ \d+ \w+\))\]", line)
        if line.startswith(b"* METADATA "):
            pairs = tokens(line[len(b"* METADATA "):])[2:-1]
            arrived.update(zip(pairs[::2], pairs[1::2]))
        elif line.startswith(b"* OK [XMETASYNC RESET]"):
            arrived, reset = {}, True
        elif marker:
            if reset:
                gone = {name.encode(): None for name in state["entries"]}
                arrived, reset = {**gone, **arrived}, False
            new, lines = dict(state["entries"]), []
            for name, value in arrived.items():
                name, value = name.decode(), value and value.decode("utf-8", "backslashreplace")
                if new.get(name) != value:
                    new.pop(name, None) if value is None else new.update({name: value})
                    lines.append("%s %s" % (name[len(BASE):], "(removed)" if value is None else value))
            arrived, state = {}, {"mark": marker[1].decode(), "entries": new}
            with open(path + ".new", "w") as file:
                json.dump(state, file)
            os.replace(path + ".new", path)
            for line in lines:
                print(line, flush=True)
        elif once and line.startswith(b"w OK"):
            return
        elif line.startswith((b"w ", b"* BYE")):
            raise EOFError(line.decode().strip())


def wait(connection, path):
    try:
        follow(connection, path)
    except (EOFError, OSError, imaplib.IMAP4.abort) as error:
        print("follow.py: %s" % error, file=sys.stderr)
        os._exit(1)


def main():
    once = sys.argv[1:2] == ["--once"]
    host, port, user, path = sys.argv[1 + once:]
    if once:
        follow(login(host, int(port), user), path, once)
        return
    threading.Thread(target=wait, args=(login(host, int(port), user), path), daemon=True).start()
    writer = login(host, int(port), user)
    imaplib.Commands["XMETASET"] = ("AUTH", "SELECTED")
    for line in sys.stdin.buffer:
        name, _, value = line.rstrip(b"\n").partition(b" ")
        value = b"{%d+}\r\n%s" % (len(value), value) if value else b"NIL"
        kind, text = writer.xatom("XMETASET", '""', b'("%s" %s)' % (BASE + name, value))
        if kind != "OK":
            print("follow.py: %s" % text[0].decode(), file=sys.stderr)
    writer.logout()


if __name__ == "__main__":
    main()
