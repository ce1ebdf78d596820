#!/usr/bin/env python3
"""Compares what the job put out with what expect.py worked out.

    check.py OUT EXPECTED

OUT is the folder of `clickline replay --out OUT`, or one with the same files read from the topics.

Record by record and in no order, for every output topic: each expected record must be there once, and no other. Fields
that the contract leaves open (ids of records, tokens, words for people) are looked at only for being there at all, and
ids for being unique. Prints the counts; exits 1 and shows examples where the two differ.
"""

import collections
import json
import pathlib
import sys

SHOWN = 5


def one_line(record):
    """Equal records give equal lines; 5000 and 5000.0 are one number."""
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps(plain(record), sort_keys=True, ensure_ascii=False)


def comparable(topic, record):
    """The part of a record of the job that expect.py speaks of, in its words."""
    if topic == "clicks.unresolved":
        return {"click_id": record["click"]["id"], "reason": record["reason"], "at": record["at"]}
    if topic == "dead-letters":
        # A replay names the file and counts lines from 1; a job names the topic and counts records from 0.
        file, line = record["source"].rsplit("/", 1)[-1], record["offset"]
        if not file.endswith(".jsonl"):
            file, line = f"{file}.jsonl", line + 1
        return {"reason": record["reason"], "file": file, "line": line}
    left_open = {"hubspot.timeline": {"v", "id", "tokens", "extra_data"}, "hubspot.contact-properties": {"v", "id"},
                 "hubspot.deal-stages": {"v", "id"}, "clicks.counts": {"v"}}[topic]
    missing = left_open - record.keys()
    assert not missing, f"{topic}: a record without {sorted(missing)}: {one_line(record)}"
    kept = {key: value for key, value in record.items() if key not in left_open}
    # A subject or measure that a record does not have may be absent or null.
    for key in ("contact_id", "email", "deal_id", "link_tag", "link"):
        if kept.get(key, "") is None:
            del kept[key]
    return kept


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def compare(topic, actual, expected):
    """`(missing, too many)`: records as lines, with how often."""
    there = collections.Counter(one_line(comparable(topic, record)) for record in actual)
    wanted = collections.Counter(one_line(record) for record in expected)
    return wanted - there, there - wanted


def repeated_ids(records):
    ids = collections.Counter(record["id"] for record in records if "id" in record)
    return sorted(one for one, count in ids.items() if count > 1)


def main(out, expected):
    wrong = False
    for path in sorted(expected.glob("*.jsonl")):
        topic = path.name.removesuffix(".jsonl")
        if not (out / path.name).is_file():
            print(f"{topic:<28} MISSING: there is no {out / path.name}")
            wrong = True
            continue
        actual = read(out / path.name)
        missing, extra = compare(topic, actual, read(path))
        twice = repeated_ids(actual)
        verdict = "DIFFERS" if missing or extra or twice else "as expected"
        print(f"{topic:<28} {len(actual):>9,} records, {verdict}")
        wrong = wrong or bool(missing or extra or twice)
        for said, lines in (("missing", missing), ("too many", extra)):
            if lines:
                print(f"  {said}: {lines.total():,}, among them")
                for line in sorted(lines)[:SHOWN]:
                    print(f"    {line}")
        if twice:
            print(f"  ids that stand there more than once: {len(twice):,}, among them {twice[:SHOWN]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
