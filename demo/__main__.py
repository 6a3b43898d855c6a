"""Shows on a private server what Dovetail does: a change on one device arrives on the other, a conflict is
refused with the value that won, a device that was away gets what it missed, mail comes in the same wait.

Exit codes: 0 each step held; 1 one did not, or the server could not be started; 2 wrong arguments."""

import argparse
import re
import statistics
import sys
import threading
import time

from harness.imap import ImapError
from harness.server import Server, ServerError

ROOT = b"/private/vendor/example"
MARK = re.compile(rb"\* OK \[XMETASYNC \((\d+ \d+ [0-9a-f]+)\)\]")
POSITION = re.compile(rb"\S+ (?:OK|NO) \[XMETASET (?:MODIFIED )?\((\d+ \d+)\)\]")
PUSHES = 50
MESSAGE = b"From: Ann <ann@example.org>\r\nSubject: lunch?\r\n\r\nAt noon.\r\n"


class Demo:
    def __init__(self, once):
        self.once = once
        self.colour = sys.stdout.isatty()
        self.steps = 0

    def say(self, who, text, colour):
        start, end = ("\x1b[%dm" % colour, "\x1b[0m") if self.colour else ("", "")
        print("%s%-8s%s %s" % (start, who, end, text), flush=True)

    def step(self, title):
        self.steps += 1
        if not self.once and self.steps > 1:
            time.sleep(2)
        print("\n%d. %s" % (self.steps, title), flush=True)

    def phone(self, text):
        self.say("phone", text, 36)

    def laptop(self, text):
        self.say("laptop", text, 33)


def check(condition, what):
    if not condition:
        raise ImapError("this did not hold: %s" % what)


def write(client, name, value, condition=b""):
    answer = client.command(b'XMETASET %s"" (%s/%s %s)' % (condition, ROOT, name, value))
    m = POSITION.match(answer[-1].line)
    check(m, answer[-1].line)
    return answer, m[1]


def to_marker(client):
    """What arrived up to the next marker, and the bookmark."""
    lines = []
    while True:
        line = client.read_response().line
        m = MARK.match(line)
        if m:
            return lines, m[1]
        lines.append(line)


def wait(client, since=b""):
    """Starts to wait; returns the tag, what was told first, and the bookmark."""
    options = b"DEPTH infinity" + (b" SINCE (" + since + b")" if since else b"")
    tag = client.start(b'XMETASYNC (%s) "" %s' % (options, ROOT))
    client.next(rb"\* OK \[XMETASYNC LIMITS")
    lines, mark = to_marker(client)
    client.next(rb"\+ idling")
    return tag, lines, mark


def done(client, tag):
    client.send(b"DONE\r\n")
    check(b" OK " in client.until(tag)[-1].line, "DONE ends the wait")


def show(line):
    return line.decode("ascii", "replace").replace(ROOT.decode() + "/", "…/")


def push(demo, phone, laptop):
    demo.step("A change on one device arrives on the other")
    tag, lines, mark = wait(laptop)
    demo.laptop("waits: XMETASYNC (DEPTH infinity) \"\" %s" % ROOT.decode())
    start = time.perf_counter()
    _, position = write(phone, b"theme", b'"dark"')
    lines, mark = to_marker(laptop)
    took = time.perf_counter() - start
    demo.phone('writes …/theme "dark"; it is on disk at (%s)' % position.decode())
    demo.laptop("%s   %.1f ms after the write was sent" % (show(lines[0]), took * 1000))
    check(lines == [b'* METADATA "" (%s/theme "dark")' % ROOT], "the value arrives, and nothing else")
    check(mark.startswith(position), "the marker names the position of the write")
    return tag, mark


def conflict(demo, phone, laptop, tag):
    demo.step("A write that others have overtaken is refused, with what is there now")
    _, old = write(phone, b"signature", b'"Ann"')
    _, now = write(phone, b"signature", b'"Ann, on the phone"')
    # two pushes, or one that has the newest value
    while not to_marker(laptop)[1].startswith(now + b" "):
        pass
    done(laptop, tag)
    demo.laptop('writes …/signature "Ann at home", if unchanged since (%s)' % old.decode())
    answer, base = write(laptop, b"signature", b'"Ann at home"', b"(UNCHANGEDSINCE (%s)) " % old)
    for resp in answer:
        demo.laptop("%s" % show(resp.line))
    check(answer[0].line == b'* METADATA "" (%s/signature "Ann, on the phone")' % ROOT, "the winner is shown")
    check(b" NO [XMETASET MODIFIED" in answer[1].line, "the write is refused")
    answer, _ = write(laptop, b"signature", b'"Ann, anywhere"', b"(UNCHANGEDSINCE (%s)) " % base)
    check(b" OK " in answer[-1].line, "with the new base it succeeds")
    demo.laptop('merges, and writes again from there: %s' % show(answer[-1].line))


def away(demo, phone, server, mark):
    demo.step("A device that was away gets what it missed, and nothing else")
    demo.laptop("leaves, with the bookmark (%s)" % mark.decode())
    write(phone, b"theme", b'"light"')
    write(phone, b"font", b'"serif"')
    write(phone, b"signature", b"NIL")
    demo.phone("changes …/theme, adds …/font, removes …/signature")
    laptop = server.login("ann")
    tag, lines, mark = wait(laptop, mark)
    demo.laptop("is back: XMETASYNC (SINCE (…)) …")
    for line in lines:
        demo.laptop(show(line))
    check(lines == [b'* METADATA "" (%s/theme "light")' % ROOT, b'* METADATA "" (%s/font "serif")' % ROOT,
                    b'* METADATA "" (%s/signature NIL)' % ROOT], "exactly the three changes")
    done(laptop, tag)
    return laptop


def mail(demo, phone, laptop):
    demo.step("Mail and state in one wait")
    laptop.command(b"SELECT INBOX")
    tag, _, _ = wait(laptop)
    demo.laptop("has INBOX selected, and waits")
    append = phone.start(b"APPEND INBOX {%d+}\r\n%s" % (len(MESSAGE), MESSAGE))
    phone.until(append)
    line = laptop.expect(rb"\* \d+ EXISTS").line
    demo.laptop("%s   a message, told as in IDLE" % show(line))
    write(phone, b"snoozed", b'"tomorrow"')
    lines, _ = to_marker(laptop)
    lines = [line for line in lines if b"METADATA" in line]
    demo.laptop("%s   and a change of state" % show(lines[0]))
    check(lines == [b'* METADATA "" (%s/snoozed "tomorrow")' % ROOT], "the change arrives in the same wait")
    done(laptop, tag)
    laptop.command(b"UNSELECT")


def latency(demo, phone, laptop):
    demo.step("How fast: %d pushes, from the write being sent to its value being read" % PUSHES)
    tag, _, _ = wait(laptop)
    times, arrived = [], threading.Semaphore(0)

    def read():
        for _ in range(PUSHES):
            to_marker(laptop)
            times[-1] = time.perf_counter() - times[-1]
            arrived.release()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for i in range(PUSHES):
        times.append(time.perf_counter())
        write(phone, b"counter", b'"%d"' % i)
        check(arrived.acquire(timeout=20), "a push arrives")
    reader.join()
    done(laptop, tag)
    return statistics.median(times) * 1000


def main():
    parser = argparse.ArgumentParser(prog="./dev demo", description="Two devices of one account, live.")
    parser.add_argument("--once", action="store_true", help="without pauses")
    demo = Demo(parser.parse_args().once)
    try:
        with Server() as server:
            print("A private Dovecot on 127.0.0.1:%d with two devices of one account." % server.port)
            phone, laptop = server.login("ann"), server.login("ann")
            tag, mark = push(demo, phone, laptop)
            conflict(demo, phone, laptop, tag)
            laptop.logout()
            # the bookmark after the conflict's writes
            visitor = server.login("ann")
            end, _, mark = wait(visitor)
            done(visitor, end)
            laptop = away(demo, phone, server, mark)
            mail(demo, phone, laptop)
            median = latency(demo, phone, laptop)
    except (ImapError, ServerError) as error:
        print("demo: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\nmedian push latency %.2f ms, %d steps held" % (median, demo.steps))
    return 0


sys.exit(main())
