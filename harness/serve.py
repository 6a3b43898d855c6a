"""`./dev server`: the private Dovecot in the foreground until SIGTERM or SIGINT.

Exit codes: 0 stopped; 1 it could not be started; 2 wrong arguments."""

import argparse
import os
import signal
import sys

from .server import MAIL_UID, Server, ServerError


def main():
    parser = argparse.ArgumentParser(prog="./dev server", description="A private Dovecot with the plugins on "
                                     "127.0.0.1: any user name, password \"pass\".")
    parser.add_argument("--port", type=int, default=10143, help="IMAP; IMAPS is 850 above (default: 10143)")
    parser.add_argument("--keep", metavar="DIR", help="keep the users' state in DIR (default: fresh, removed at the end)")
    args = parser.parse_args()
    if not 1 <= args.port <= 65535 - 850:
        parser.error("--port: must be 1 .. %d" % (65535 - 850))
    if args.keep:
        try:
            os.makedirs(args.keep, exist_ok=True)
        except OSError as error:
            parser.error("--keep %s: %s" % (args.keep, error.strerror))
    stop = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(1))
    try:
        server = Server(port=args.port, tls=True, keep=args.keep)
    except (ServerError, OSError) as error:
        print("server: %s" % error, file=sys.stderr)
        return 1
    if args.keep and os.getuid() == 0:
        print("state in %s belongs to uid %d" % (args.keep, MAIL_UID), file=sys.stderr)
    print("127.0.0.1:%d (IMAP) and :%d (IMAPS), any user name, password \"pass\"" %
          (server.port, server.tls_port), file=sys.stderr)
    print("ready", flush=True)
    # a signal that came before this line is not lost: it has been noted
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD))
    if not stop:
        signal.sigwait((signal.SIGTERM, signal.SIGINT, signal.SIGCHLD))
    died = server.process.poll() is not None
    server.destroy()
    if died:
        print("server: Dovecot has ended by itself", file=sys.stderr)
    return 1 if died else 0


sys.exit(main())
