"""mirror_chaos.py for a while: DOVETAIL_CHAOS_SECONDS (60) and DOVETAIL_CHAOS_SEED."""

import os

import mirror_chaos


def test_nothing_is_lost(tmp_path):
    chaos = mirror_chaos.Chaos(int(os.environ.get("DOVETAIL_CHAOS_SEED", "1")), tmp_path)
    try:
        chaos.run(float(os.environ.get("DOVETAIL_CHAOS_SECONDS", "60")))
    finally:
        chaos.close()
