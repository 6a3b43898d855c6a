"""A reader that stops reading while much is written: it costs no memory, holds up nobody and in the end has the newest
values. The story is the benchmark's (bench/memory.py), which raises if a value is not newer than the one before it, if
markers are out of order, or if the end is not what was written last."""

from bench import memory

CHANGES = 2500


def test_a_reader_that_stops_reading(server, user):
    figures = memory.blocked(server, user, CHANGES)
    # it was blocked: values in between were never sent to it
    assert figures["values_read"] < CHANGES
    assert figures["grown_kib"] < 2048
    assert figures["wal_grown_kib"] <= 1024
