"""The command line: runs the benchmarks that are named, prints their tables, writes the figures."""

import argparse
import json
import sys

from . import client, memory, push, report, sets, snapshot, xkey

BENCHES = {"push": push.run, "snapshot": snapshot.run, "set": sets.run, "memory": memory.run, "xkey": xkey.run,
           "client": client.run}


def main():
    parser = argparse.ArgumentParser(prog="./dev bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help="%s; default: all" % ", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true", help="less than 30 seconds each, rougher figures")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    for name in args.names:
        if name not in BENCHES:
            parser.error("unknown benchmark: %s (known: %s)" % (name, ", ".join(BENCHES)))

    results = report.Results(args.quick)
    for name in args.names or BENCHES:
        BENCHES[name](results)
        results.print_new()
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results.as_object(), f, indent=2)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
