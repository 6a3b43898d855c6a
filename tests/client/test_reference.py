"""The reference is made from the headers (docs/man/from-header.py): nothing of them may be missing in it, and it has to be a good page."""

import os
import re
import subprocess

import pytest

from harness.server import BUILD, TREE

PAGES = {"libdovetail": "dovetail.h"}


def page(name):
    result = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-P-c", "-P-bou", "-rLL=200n", os.path.join(BUILD, "docs/man", name + ".3")],
                            capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("name", PAGES)
def test_all_of_the_header(name):
    shown = page(name)
    with open(os.path.join(TREE, "include", PAGES[name])) as f:
        header = f.read()
    names = set(re.findall(r"\b(?:dovetail|DOVETAIL)_\w+", header)) - {"DOVETAIL_H"}
    missing = names - set(re.findall(r"\w+", shown))
    assert names and not missing


@pytest.mark.parametrize("name", PAGES)
def test_sections(name):
    shown = page(name)
    with open(os.path.join(TREE, "include", PAGES[name])) as f:
        headings = re.findall(r"/\* ---- (.*?) ----", f.read())
    assert headings
    for heading in headings:
        assert "\n%s\n" % heading.upper() in shown
