"""A private Dovecot: its own configuration, directories, ports and state below one temporary directory, on
127.0.0.1 only, gone at the end. Works as root (then as on a real server: mail processes of another uid) and
as an ordinary user (then everything is that user's)."""

import atexit
import contextlib
import ctypes
import os
import random
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from .imap import Client

TREE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("DOVETAIL_BUILD", os.path.join(TREE, "build"))
STOCK_MODULES = "/usr/lib/dovecot/modules"
OURS = [("src/long-command", "lib05_imap_long_command_plugin.so"),
        ("src/metasync", "lib10_metasync_plugin.so"),
        ("src/imap-metasync", "lib15_imap_metasync_plugin.so"),
        ("src/imap-xkey", "lib15_imap_xkey_plugin.so"),
        ("tests/server/wrong", "lib50_imap_plain_plugin.so"),
        ("tests/server/plugin", "lib50_imap_long_command_test_plugin.so")]
DOVEADM_MODULE = ("src/doveadm-metasync", "lib20_doveadm_metasync_plugin.so")
# Mail of a root server belongs to a uid that nobody has: this one if the state is kept, else one of these. (The kernel
# limits inotify instances by uid.)
MAIL_UID = 61234
MAIL_UIDS = range(30000, 60000, 2)
TESTS = " imap_long_command_test"

CONFIG = """\
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/log
mail_plugin_dir = {root}/modules
protocols = imap
listen = 127.0.0.1
disable_plaintext_auth = no
ssl = {ssl}
first_valid_uid = 1
first_valid_gid = 1
mail_max_userip_connections = 10000
verbose_proctitle = yes
default_vsz_limit = {vsz}
import_environment = TZ {environment}
auth_mechanisms = plain
{users}
passdb {{
  driver = static
  args = password=pass
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid}{home}{userdb}
}}
mail_location = {mail_location}
mail_plugins = {mail_plugins}
protocol imap {{
  imap_metadata = yes
  mail_plugins = $mail_plugins {imap_plugins}
}}
plugin {{
{plugin}}}
service anvil {{
  client_limit = 20000
  {chroot}
}}
service stats {{
  client_limit = 20000
}}
service auth {{
  client_limit = 20000
}}
service imap-login {{
  {chroot}
  service_count = 0
  client_limit = 4000
  process_min_avail = 1
  inet_listener imap {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {tls_port}
    ssl = yes
  }}
}}
service imap {{
  process_limit = 4000
  client_limit = {client_limit}
  service_count = {service_count}
  process_min_avail = {process_min_avail}
  {executable}
}}
service doveadm {{
  executable = {root}/doveadm-server
  vsz_limit = {doveadm_vsz}
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
{extra}
"""

# How the imap processes are started, if they are looked at
WRAPPERS = {
    "asan": "/usr/lib/dovecot/imap",
    "valgrind": "valgrind -q --vgdb=no --leak-check=full --errors-for-leak-kinds=definite "
                "--show-leak-kinds=definite --log-file={root}/sanitizer/valgrind.%p /usr/lib/dovecot/imap",
}


def processes_with(sockets):
    """The pids of those that have one of the sockets open, which are given by their inodes."""
    names, pids = ["socket:[%s]" % inode for inode in sockets], set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for fd in os.listdir("/proc/%s/fd" % pid):
                with contextlib.suppress(OSError):
                    if os.readlink("/proc/%s/fd/%s" % (pid, fd)) in names:
                        pids.add(int(pid))
    return pids


def connection_pid(client_port, server_port, patience=10):
    """The process that has the server's end of a connection on loopback. If one is handing it on, the other: imap-login
    may have it open for a while after imap has answered."""
    mine, theirs = (":%04X" % port for port in (client_port, server_port))
    deadline = time.monotonic() + patience
    pids = set()
    while time.monotonic() < deadline:
        with open("/proc/net/tcp") as f:
            inodes = [fields[9] for fields in map(str.split, f)
                      if fields[1].endswith(theirs) and fields[2].endswith(mine) and fields[9] != "0"]
        pids = processes_with(inodes)
        if len(pids) == 1:
            return pids.pop()
    raise LookupError("%s processes have the connection" % (len(pids) or "no"))


def imap_pid(connection_socket):
    """The process that has the server's end of a connection: imap, once imap-login has handed it on."""
    return connection_pid(connection_socket.getsockname()[1], connection_socket.getpeername()[1])


class ServerError(RuntimeError):
    """One line for the user."""


def free_ports():
    """A port for IMAP whose 850th follower is free too. Below those that the kernel gives to connections: one of these
    could be taken before the server listens on it."""
    while True:
        port = random.randrange(15000, 31000)
        with socket.socket() as a, socket.socket() as b:
            try:
                a.bind(("127.0.0.1", port))
                b.bind(("127.0.0.1", port + 850))
            except OSError:
                continue
            return port


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def remove_after_all(function, path, _):
    """What shutil.rmtree() could not remove: a test may have made the directory read-only."""
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), 0o700)
        function(path)


class Server:
    """plugins: True (ours), False (none), the names of imap plugins beside ours, or a list of the only ones.
    modules: files of plugins, which replace ours of the same name. xkey: False: without imap_xkey, which brings
    OpenSSL's libcrypto into each imap process. plugin: settings in
    plugin { }. extra: text at the end of the configuration. keep: a directory for the users' homes.
    homes: False: users have mail, but no home. userdb: more fields of each user ("%u" in them is
    the name), or lines of the userdb. "{root}" in settings is the server's directory."""

    def __init__(self, plugin=None, plugins=True, extra="", port=None, tls=False, keep=None,
                 client_limit=1, service_count=1, process_min_avail=0, wrapper=None,
                 mail_location="maildir:~/mail", homes=True, userdb="", xkey=True, modules=()):
        self.root = tempfile.mkdtemp(prefix="dt-", dir="/tmp")
        self.port = port or free_ports()
        self.tls_port = self.port + 850
        self.tls = tls
        self.wrapper = wrapper or os.environ.get("DOVETAIL_WRAPPER")
        self.process = None
        self.clients = []
        self.crashed = set()
        self.destroyed = False
        self.as_root = os.getuid() == 0
        self.mail_uid = os.getuid()
        if self.as_root:
            self.mail_uid = MAIL_UID if keep else random.choice(MAIL_UIDS)
        self.mail_gid = self.mail_uid
        if not self.as_root:
            self.mail_gid = os.getgid()
        atexit.register(self.destroy)
        try:
            self._directories(keep)
            self._modules()
            for path in modules:
                shutil.copy(path, self.root + "/modules")
            with open(self.config, "w") as f:
                f.write(self._config(plugin or {}, plugins, extra, tls, client_limit, service_count,
                                     process_min_avail, mail_location, homes, userdb, xkey))
            self.start()
        except BaseException:
            self.destroy()
            raise

    # -- setting up

    @property
    def config(self):
        return self.root + "/dovecot.conf"

    def _directories(self, keep):
        os.chmod(self.root, 0o755)
        for name in ("run", "state", "modules", "home", "sanitizer"):
            os.mkdir(os.path.join(self.root, name))
        os.chmod(self.root + "/sanitizer", 0o777)
        if keep:
            os.rmdir(self.root + "/home")
            os.makedirs(keep, exist_ok=True)
            os.symlink(os.path.realpath(keep), self.root + "/home")
        if self.as_root:
            os.chown(self.root + "/home", self.mail_uid, self.mail_gid)

    def _modules(self):
        self._copy_modules(STOCK_MODULES, OURS, self.root + "/modules")
        # doveadm's own, for harness/doveadm-modules.c
        os.remove(self.root + "/modules/doveadm")
        os.mkdir(self.root + "/modules/doveadm")
        self._copy_modules(STOCK_MODULES + "/doveadm", [DOVEADM_MODULE], self.root + "/modules/doveadm")
        self._script("doveadm-server", self._doveadm_env(), "/usr/lib/dovecot/doveadm-server")

    def _script(self, name, env, command):
        path = os.path.join(self.root, name)
        with open(path, "w") as f:
            f.write("#!/bin/sh\n" + "".join("export %s='%s'\n" % item for item in env.items()) +
                    "exec %s \"$@\"\n" % command)
        os.chmod(path, 0o755)
        return path

    def _doveadm_env(self):
        env = self._sanitizer_env()
        preload = os.path.join(BUILD, "harness/libdoveadm_modules.so")
        if os.path.exists(preload):
            # AddressSanitizer wants to be the first
            env["LD_PRELOAD"] = (env.get("LD_PRELOAD", "") + " " + preload).strip()
            env["DOVETAIL_DOVEADM_MODULES"] = self.root + "/modules/doveadm"
        return env

    @staticmethod
    def _copy_modules(stock, ours, directory):
        for name in os.listdir(stock):
            if name not in [ours_name for _, ours_name in ours]:
                os.symlink(os.path.join(stock, name), os.path.join(directory, name))
        for folder, name in ours:
            path = os.path.join(BUILD, folder, name)
            if os.path.exists(path):
                # a copy: the mail user need not be able to reach the tree
                shutil.copy(path, os.path.join(directory, name))

    def _sanitizer_env(self):
        """What stock Dovecot's programs need to run sanitized plugins."""
        if self.wrapper != "asan":
            return {}
        libraries = " ".join(os.path.realpath(subprocess.run(
            ["gcc", "-print-file-name=" + name], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
            for name in ("libasan.so", "libubsan.so"))
        # GDB: plugins stay loaded to the end, for their names in reports
        return {"LD_PRELOAD": libraries, "GDB": "1",
                "UBSAN_OPTIONS": "print_stacktrace=1:log_path=%s/sanitizer/ubsan" % self.root,
                "ASAN_OPTIONS": "detect_leaks=1:log_path=%s/sanitizer/asan:abort_on_error=0:exitcode=98" % self.root}

    def _wrapper(self):
        if not self.wrapper:
            return ""
        path = self._script("imap-wrapper", self._sanitizer_env(), WRAPPERS[self.wrapper].format(root=self.root))
        return "executable = %s\n  vsz_limit = %s" % (path, "0" if self.wrapper == "asan" else "4G")

    def _config(self, plugin, plugins, extra, tls, client_limit, service_count, process_min_avail,
                mail_location, homes, userdb, xkey):
        users = chroot = imap = mail = ""
        if not self.as_root:
            me = pwd.getpwuid(os.getuid()).pw_name
            users = ("default_internal_user = {0}\ndefault_internal_group = {1}\n"
                     "default_login_user = {0}\n").format(me, self._group())
            chroot = "chroot ="
        certificate = "no"
        if tls:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.root + "/key.pem",
                            "-out", self.root + "/cert.pem"], check=True, capture_output=True)
            certificate = "yes\nssl_cert = <{0}/cert.pem\nssl_key = <{0}/key.pem".format(self.root)
        if isinstance(plugins, list):
            imap = " ".join(plugins)
        elif plugins is not False:
            mail = "metasync"
            imap = "imap_long_command imap_metasync" + (" imap_xkey" if xkey else "")
            if os.path.exists(self.root + "/modules/" + OURS[-1][1]):
                imap += TESTS
            if plugins is not True:
                imap += " " + plugins
        config = CONFIG.format(
            root=self.root, ssl=certificate, vsz="1G", users=users, uid=self.mail_uid, gid=self.mail_gid,
            environment="GDB=1" if self.wrapper else "", mail_location=mail_location,
            home=" home={root}/home/%u" if homes else "", userdb=userdb and " " + userdb,
            mail_plugins=mail, imap_plugins=imap,
            plugin="".join("  %s = %s\n" % item for item in plugin.items()), chroot=chroot, port=self.port,
            tls_port=self.tls_port if tls else 0, client_limit=client_limit, service_count=service_count,
            process_min_avail=process_min_avail, executable=self._wrapper(),
            doveadm_vsz="0" if self.wrapper == "asan" else "1G", extra=extra)
        if not self.as_root:
            config += "service imap-hibernate {\n  unix_listener imap-hibernate {\n    mode = 0600\n  }\n}\n"
            config += "service imap {\n  unix_listener imap-master {\n    mode = 0600\n  }\n}\n"
        return config.replace("{root}", self.root)

    @staticmethod
    def _group():
        import grp
        return grp.getgrgid(os.getgid()).gr_name

    # -- life

    def start(self):
        for port in (self.port, self.tls_port):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise ServerError("port %d: %s" % (port, error.strerror)) from None
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        self.process = subprocess.Popen(["dovecot", "-F", "-c", self.config], preexec_fn=die_with_parent,
                                        env=dict(os.environ, PATH=path), stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + 30
        while True:
            try:
                # the port that is listened on last
                port = self.tls_port if self.tls else self.port
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    output = self.process.stdout.read().decode(errors="replace")
                    raise ServerError("Dovecot did not start: " + (output + self.log()).strip()) from None
                if time.monotonic() > deadline:
                    raise ServerError("Dovecot does not listen on port %d" % port) from None
                time.sleep(0.01)

    def processes(self):
        """Pids of this server's processes: those whose master is ours."""
        if not self.process:
            return []
        children, out = {}, []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as f:
                    fields = f.read().rpartition(")")[2].split()
                if fields[0] != "Z":
                    children.setdefault(int(fields[1]), []).append(int(pid))
            except OSError:
                pass
        pending = [self.process.pid]
        while pending:
            pid = pending.pop()
            out.append(pid)
            pending += children.get(pid, [])
        return out

    def stop(self):
        """SIGTERM, and waits for all processes. The log can still be read."""
        if not self.process:
            return
        pids = self.processes()
        self.process.terminate()
        deadline = time.monotonic() + 30
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        while any(os.path.exists("/proc/%d" % pid) for pid in pids):
            if time.monotonic() > deadline:
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                break
            time.sleep(0.01)
        self.process.stdout.close()
        self.process = None

    def destroy(self):
        self.close_clients()
        self.stop()
        shutil.rmtree(self.root, onerror=remove_after_all)
        self.destroyed = True
        atexit.unregister(self.destroy)

    def __enter__(self):
        return self

    def close_clients(self):
        """Dovecot waits ten seconds for sessions when it stops."""
        for client in self.clients:
            client.close()
        self.clients = []

    def __exit__(self, kind, *_):
        try:
            self.close_clients()
            self.stop()
            if kind is None:
                self.assert_clean()
        finally:
            self.destroy()

    # -- use

    def login(self, user="u1", **kwargs):
        client = Client(self.port, user, **kwargs)
        self.clients.append(client)
        return client

    def await_no_session(self, user):
        """Waits until no imap process has a session of the user."""
        deadline = time.monotonic() + 30
        title = ("[%s " % user).encode()
        while True:
            titles = b""
            for pid in self.processes():
                try:
                    with open("/proc/%d/cmdline" % pid, "rb") as f:
                        titles += f.read()
                except OSError:
                    pass
            if title not in titles:
                return
            assert time.monotonic() < deadline, "a session of %s does not end" % user
            time.sleep(0.01)

    def home(self, user):
        return os.path.join(self.root, "home", user)

    def log(self):
        try:
            with open(self.root + "/log", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def doveadm_command(self, *args, config=None):
        """Arguments for subprocess: doveadm with this server's configuration and modules."""
        env = self._doveadm_env()
        # through doveconf, which starts it again with the settings
        env["DOVECOT_PRESERVE_ENVS"] = " ".join(env)
        return {"args": ["doveadm", "-c", config or self.config] + list(args),
                "env": dict(os.environ, **env)}

    def doveadm(self, *args, config=None, **kwargs):
        """input: for its standard input, bytes if the output is wanted as bytes (text=False)."""
        return subprocess.run(**self.doveadm_command(*args, config=config), capture_output=True, timeout=60,
                              **{"text": True, **kwargs})

    def await_crash(self, pid):
        """For a crash that is wanted: waits until the master has told of it; returns the log's lines about this process.
        assert_clean() takes no offence at them."""
        self.crashed.add(pid)
        deadline = time.monotonic() + 60
        while True:
            lines = [line for line in self.log().splitlines() if self._is_of(line, pid)]
            if any("service(imap): child %d " % pid in line for line in lines):
                return "\n".join(lines)
            assert time.monotonic() < deadline, "process %d does not crash" % pid
            time.sleep(0.01)

    @staticmethod
    def _is_of(line, pid):
        """Also of one that had no user any more."""
        return "<%d>" % pid in line or "(%d): " % pid in line or " child %d " % pid in line

    def sanitizer_reports(self, pids=None):
        """Those about these processes; else all but those whose crash was wanted."""
        out = ""
        for name in sorted(os.listdir(self.root + "/sanitizer")):
            pid = int(name.rpartition(".")[2])
            if pid not in pids if pids else pid in self.crashed:
                continue
            with open(os.path.join(self.root, "sanitizer", name), errors="replace") as f:
                out += f.read()
        return out

    def assert_clean(self):
        """No process has ended by an assertion or a signal, and nothing was found by a sanitizer."""
        # UBSan looks for its options at its first error, when Dovecot's process title is where they were: then it, and ASan
        # from then on, report to the standard error output, which is the log
        bad = [line for line in self.log().splitlines()
               if re.search(r"Panic|Fatal|killed with signal|assertion failed|leak|Raw backtrace|runtime error: |"
                            r"ERROR: AddressSanitizer", line) and
               not any(self._is_of(line, pid) for pid in self.crashed)]
        assert not bad, "\n".join(bad)
        reports = self.sanitizer_reports()
        assert not reports.strip(), reports[:20000]
