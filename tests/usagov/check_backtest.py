#!/usr/bin/env python3
"""Compares what a backtest says of the rules as they are written with what expect.py worked out.

    check_backtest.py BACKTEST EXPECTED

BACKTEST is what `clickline backtest --format json` printed. Every stage delta that must come out must be an advance of its
rule at the rule's own threshold and window, and no other. Rules that are off make no deltas and are left out. Prints the
counts; exits 1 and shows examples where the two differ.
"""

import collections
import datetime
import json
import pathlib
import sys

SHOWN = 5


def milliseconds(text):
    """Of `2013-03-31T21:30:50.000Z`, exactly."""
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment - datetime.datetime.fromtimestamp(0, datetime.timezone.utc)) // datetime.timedelta(milliseconds=1)


def said(report):
    """`(rule, tick, deal, person, count, beginning of the hot period)` of each advance, with how often."""
    advances = collections.Counter()
    for rule in report["rules"]:
        own = [variant for variant in rule["variants"] if variant["own"]]
        assert len(own) == 1, f"{rule['rule']}: one variant is as the rule is written, not {len(own)}"
        for advance in own[0]["advances"] if rule["mode"] != "off" else []:
            person = advance.get("contact_id") or advance.get("email")
            moments = milliseconds(advance["at"]), milliseconds(advance["hot_since"])
            advances[rule["rule"], moments[0], advance["deal_id"], person, advance["count"], moments[1]] += 1
    return advances


def wanted(deltas):
    """The same of stage deltas."""
    return collections.Counter(
        (delta["rule"], delta["at"], delta["deal_id"], delta.get("contact_id") or delta.get("email"), delta["count"], delta["hot_since"])
        for delta in deltas)


def main(backtest, expected):
    report = json.loads(backtest.read_text(encoding="utf-8"))
    with open(expected / "hubspot.deal-stages.jsonl", encoding="utf-8") as file:
        must = wanted(json.loads(line) for line in file)
    does = said(report)
    variants = sum(len(rule["variants"]) for rule in report["rules"])
    missing, extra = must - does, does - must
    print(f"{variants:,} variants; {does.total():,} advances of rules as they are written, {'DIFFERS' if missing or extra else 'as expected'}")
    for what, advances in (("missing", missing), ("too many", extra)):
        for advance in sorted(advances, key=str)[:SHOWN]:
            print(f"  {what}: {advance}")
    return 1 if missing or extra else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
