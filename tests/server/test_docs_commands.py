"""docs/writing-commands.md and its picture against their sources."""

import html
import os
import re

from harness.server import TREE


def read(*path):
    with open(os.path.join(TREE, *path)) as f:
        return f.read()


def unquoted(text):
    return html.unescape(text).replace("\xa0", " ").strip()


def dot():
    """What the picture's source has: {node: lines}, {(from, to): lines} with edges that are there twice as one."""
    text = re.sub(r"^\s*//.*$", "", read("docs", "long-command.dot"), flags=re.M)
    nodes, edges = {}, {}
    for left, right, attributes in re.findall(r"^\s*(\w+)(?: -> (\w+))? \[(.*)\];$", text, re.M):
        label = re.search(r'label="([^"]*)"', attributes)
        if left in ("graph", "node", "edge"):
            continue
        lines = [line.strip() for line in label[1].split("\\n")] if label and label[1] else []
        if right:
            edges.setdefault((left, right), []).extend(lines)
        else:
            nodes[left] = lines
    return nodes, edges


def svg():
    """The same from the picture."""
    nodes, edges = {}, {}
    for kind, title, body in re.findall(r'<g id="\w+" class="(node|edge)">\s*<title>(.*?)</title>(.*?)</g>',
                                        read("docs", "long-command.svg"), re.S):
        lines = [unquoted(line) for line in re.findall(r"<text [^>]*>(.*?)</text>", body)]
        if kind == "node":
            nodes[title] = lines
        else:
            edges.setdefault(tuple(unquoted(title).split("->")), []).extend(lines)
    return nodes, edges


def test_the_picture_is_that_of_its_source():
    """If not: dot -Tsvg docs/long-command.dot -o docs/long-command.svg"""
    nodes, edges = dot()
    assert len(nodes) >= 8 and len(edges) >= 12
    assert svg() == (nodes, edges)


def test_the_picture_has_the_framework_s_states_and_callbacks():
    nodes, edges = dot()
    opening = read("src", "long-command", "long-command.c").partition("*/")[0]
    states = re.findall(r"^   - (\w+): ", opening, re.M)
    assert len(states) == 4 and set(states) <= set(nodes)
    callbacks = set(re.findall(r"\(\*(\w+)\)\(struct imap_long_command \*lc\b", read("include", "imap-long-command.h")))
    assert {"start", "finish", "over_limits"} <= callbacks
    shown = set(re.findall(r"(\w+)\(\)", " ".join(sum(edges.values(), []))))
    guide = set(re.findall(r"`(\w+)\(\)`", read("docs", "writing-commands.md")))
    assert shown == callbacks | {"imap_long_command_end"}
    assert callbacks <= guide


def test_each_mistake_is_told_and_shown():
    source = read("tests", "server", "wrong", "plain.c")
    commands = dict(re.findall(r'\{ "(\w+)", (\w+) \}', source))
    wrong = {name for name, mistake in commands.items() if mistake != "PLAIN_RIGHT"}
    text = read("docs", "writing-commands.md")
    assert len(wrong) >= 16 and wrong == set(re.findall(r"\bX[A-Z]{5,}\b", text)) - {"XPLAIN", "XCLOCK"}
    # each mistake does something
    for name in wrong:
        assert len(re.findall(r"\b%s\b" % commands[name], source)) >= 3, name
    assert wrong <= set(re.findall(r'b"(X[A-Z]+)"', read("tests", "server", "test_wrong_plugins.py")))


def test_lines_of_dovecot_are_quoted():
    """A file, its line in 2.3 and in 2.4, and what is there: for those who have other versions."""
    text = read("docs", "writing-commands.md")
    rows = re.findall(r"^\| \S+\.c \|.*$", text, re.M)
    assert len(rows) >= 30
    for row in rows:
        assert re.match(r"\| \S+\.c \| \d+ \| \d+ \| `[^`]{8,}` \|", row), row
