#!/usr/bin/env python3
"""Makes a man page of section 3 from a public header's comments, so that the reference is written once: in the header.

usage: from-header.py HEADER NAME TITLE VERSION > PAGE

A comment is shown as text, what follows it until the next comment or blank line as the declaration; "/* ---- Heading ---- text */"
opens a section; indented lines in comments are shown as they are."""

import re
import sys


def escaped(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\\&" + text if text.startswith(".") else text


def blocks(source):
    """("comment" or "code", lines) of a header without its guards and preprocessor lines."""
    kind, lines = None, []
    for line in source.splitlines():
        if re.match(r'\s*(#(?!define \w+_VERSION)|extern "C"|}$)', line):
            continue
        # comments at the margin; those inside of declarations belong to these
        if kind != "comment" and line.startswith("/*"):
            yield kind, lines
            kind, lines = "comment", []
        elif kind != "comment" and not line.strip() and not (lines and lines[0].endswith("{")
                                                            and not re.match(r"}", lines[-1])):
            yield kind, lines
            kind, lines = None, []
            continue
        elif kind is None:
            kind = "code"
        lines.append(line)
        if kind == "comment" and line.rstrip().endswith("*/"):
            yield kind, lines
            kind, lines = None, []
    yield kind, lines


def text(lines):
    """A comment's words: paragraphs, and what is indented in it."""
    words = "\n".join(lines).strip()[2:-2].strip()
    heading = re.match(r"---- (.*?) ----\s*", words)
    if heading:
        yield ".SH " + escaped(heading[1]).upper()
        words = words[heading.end():]
    for paragraph in filter(str.strip, re.split(r"\n[ \t]*\n", words)):
        if paragraph.startswith("\t"):
            yield ".PP\n.nf\n.RS 4"
            for line in paragraph.expandtabs(8).splitlines():
                yield escaped(line[8:])
            yield ".RE\n.fi"
        else:
            yield ".PP"
            yield escaped(" ".join(paragraph.split()))


def code(lines):
    yield ".PP\n.nf\n.RS 4\n.ft CW"
    for line in lines:
        yield escaped(line.expandtabs(4))
    yield ".ft R\n.RE\n.fi"


def main():
    header, name, title, version = sys.argv[1:]
    with open(header, encoding="utf-8") as file:
        source = file.read()
    print('.\\" made from %s' % header.rpartition("/")[2])
    print('.TH %s 3 "" "Dovetail %s" "Library functions"' % (name.upper(), version))
    print(".SH NAME\n%s \\- %s" % (name, escaped(title)))
    print(".SH SYNOPSIS\n.B #include <%s>" % header.rpartition("/")[2])
    print(".SH DESCRIPTION")
    for kind, lines in blocks(source):
        for line in {None: lambda _: [], "comment": text, "code": code}[kind](lines):
            print(line)


if __name__ == "__main__":
    main()
