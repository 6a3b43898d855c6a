"""The framework as a stranger has it: installed by itself, and plugins that are built with nothing but that."""

import os
import subprocess

from harness.server import TREE

MODULES = "/usr/lib/dovecot/modules"
FRAMEWORK = "lib05_imap_long_command_plugin.so"


def run(*command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ, **(env or {})))
    assert done.returncode == 0, "%s\n%s%s" % (" ".join(command), done.stdout, done.stderr)
    return done.stdout


def sanitized():
    return ["-Db_sanitize=address,undefined"] if os.environ.get("DOVETAIL_WRAPPER") == "asan" else []


class Installed:
    """A directory that stands for the system's root, with the framework of a tree in it and nothing else."""

    def __init__(self, directory, tree=TREE):
        self.root, self.directory = str(directory / "root"), str(directory)
        self.build(tree, "framework", "-Dparts=framework")
        self.files = {os.path.join(d, name)[len(self.root):] for d, _, names in os.walk(self.root) for name in names}
        pc, = (path for path in self.files if path.endswith(".pc"))
        self.env = {"PKG_CONFIG_PATH": self.root + os.path.dirname(pc)}

    def build(self, source, name, *options):
        """Builds and installs a project of Meson's; returns its build directory."""
        build = os.path.join(self.directory, name)
        run("meson", "setup", build, str(source), *options, *sanitized(), env=getattr(self, "env", None))
        run("meson", "install", "-C", build, "--destdir", self.root)
        return build

    def module(self, name):
        return self.root + MODULES + "/" + name

    def pkg_config(self, *args):
        return run("pkg-config", *args, "imap-long-command", env=self.env).strip()

    def compile(self, source, name, *cflags):
        """A plugin of one file, without Meson; returns its file."""
        path = os.path.join(self.directory, name)
        sanitize = [option.replace("-Db_sanitize", "-fsanitize") for option in sanitized()]
        run("gcc", "-shared", "-fPIC", "-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", *sanitize, *cflags,
            *self.pkg_config("--cflags").split(), str(source), "-o", path)
        return path
