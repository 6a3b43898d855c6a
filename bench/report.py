"""What a run found: figures, targets, the machine; as tables and as an object for --json."""

import os
import platform
import subprocess


def percentile(samples, percent):
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def latency(samples):
    """Figures of a list of seconds. A 99th percentile of few samples says nothing."""
    figures = {"p50_ms": round(percentile(samples, 50) * 1000, 4), "samples": len(samples)}
    if len(samples) >= 500:
        figures["p99_ms"] = round(percentile(samples, 99) * 1000, 4)
    return figures


def machine():
    cpu = "unknown"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as f:
        memory_kib = int(f.readline().split()[1])
    version = subprocess.run(["dovecot", "--version"], capture_output=True, text=True,
                             env=dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin"))
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_mib": memory_kib // 1024,
            "kernel": platform.release(), "dovecot": version.stdout.strip(),
            "load": round(os.getloadavg()[0], 2)}


def file_system(path):
    """Type of the file system that holds path."""
    best, kind = "", "unknown"
    with open("/proc/self/mounts") as f:
        for line in f:
            _, where, this = line.split()[:3]
            inside = os.path.realpath(path).startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best):
                best, kind = where, this
    return kind


class Results:
    def __init__(self, quick):
        self.quick = quick
        self.cases = {}
        self.targets = []
        self.notes = []
        self.runs = {}
        self.machine = machine()
        self.printed = set()

    def add(self, case, subject, figures):
        self.cases.setdefault(case, {})[subject] = figures

    def target(self, text, value, limit, at_least=False):
        """value and limit are numbers in the same unit; limit is still good."""
        met = value >= limit if at_least else value <= limit
        self.targets.append("%-7s %s: %.2f (%s %.2f)" % ("ok" if met else "missed", text, value,
                                                         "at least" if at_least else "at most", limit))

    def data_is_on(self, path):
        """A durable write is only as slow as its file system."""
        self.machine["file_system"] = file_system(path)
        if self.machine["file_system"] in ("tmpfs", "ramfs"):
            self.notes.append("note: the data are in memory (%s), so that making them durable costs nothing; "
                              "these figures say little" % path)

    def print_new(self):
        """Prints what was added since the last call."""
        for case, subjects in self.cases.items():
            if case in self.printed:
                continue
            self.printed.add(case)
            print_table(case, subjects)
        for line in self.notes + self.targets:
            print(line)
        print(flush=True)
        self.notes, self.targets = [], []

    def as_object(self):
        return dict(self.cases, machine=self.machine, runs=dict(self.runs, quick=self.quick))


def print_table(case, subjects):
    """One line for each subject; in brackets each figure in relation to the first line's."""
    columns = []
    for figures in subjects.values():
        columns += [name for name in figures if name not in columns]
    first = next(iter(subjects.values()))
    rows = [[case] + columns]
    for subject, figures in subjects.items():
        row = [subject]
        for name in columns:
            if name not in figures:
                row.append("-")
            elif figures is first or not first.get(name) or name == "samples":
                row.append("%g" % figures[name])
            else:
                ratio = figures[name] / first[name]
                row.append(("%g (x%.2f)" if ratio >= 0.1 else "%g (x%.2g)") % (figures[name], ratio))
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(row[0].ljust(widths[0]) + "".join("  " + cell.rjust(width)
                                                for cell, width in zip(row[1:], widths[1:])))
