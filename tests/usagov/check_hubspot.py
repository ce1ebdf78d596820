#!/usr/bin/env python3
"""Compares what HubSpot holds in the end with what expect.py says was to be written to it.

    check_hubspot.py INPUT EXPECTED SNAPSHOT

INPUT is convert.py's folder (hubspot.json: what HubSpot held at the beginning), EXPECTED is expect.py's. SNAPSHOT holds what a
sandbox was found to hold: events.jsonl (id, contact, title, ts), contacts.jsonl (id, email, properties: those of clickline)
and deals.jsonl (id, stages: all it was in, oldest first).

Event by event, contact by contact, deal by deal; prints the counts, and examples where they differ.
"""

import collections
import json
import pathlib
import sys

SHOWN = 5


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class HubSpot:
    """Who is who in HubSpot: by id, after merges, and by e-mail."""

    def __init__(self, start):
        self.survivor = {other: primary for primary, other in start["merges"]}
        self.there = {contact["id"] for contact in start["contacts"]}
        self.by_email = {contact["email"]: self.follow(contact["id"]) for contact in start["contacts"] if contact["email"]}

    def follow(self, contact):
        while contact in self.survivor:
            contact = self.survivor[contact]
        return contact

    def contact_of(self, record):
        """The contact of a delta's person: an id, an address of a contact that HubSpot makes for it, or None: nobody."""
        if "email" in record:
            return self.by_email.get(record["email"], record["email"])
        return self.follow(record["contact_id"]) if record["contact_id"] in self.there else None


def wanted(hubspot, start, expected):
    """`(events, properties, deals)` that HubSpot must hold, and how many events have nobody to go to."""
    refused = 0
    events, properties = collections.Counter(), collections.defaultdict(dict)
    for event in read(expected / "hubspot.timeline.jsonl"):
        contact = hubspot.contact_of(event)
        if contact is None:
            refused += 1
        else:
            events[contact, event["click_id"], event["title"], event["ts"]] += 1
    with_event = {contact for contact, _, _, _ in events}
    for change in sorted(read(expected / "hubspot.contact-properties.jsonl"), key=lambda change: change["at"]):
        contact = hubspot.contact_of(change)
        if contact is not None:
            assert contact in hubspot.there or contact in with_event, "a property comes from a click, and a click is an event"
            properties[contact].update(change["properties"])
    deals = {deal["id"]: [deal["stage"]] for deal in start["deals"]}
    linked = {deal["id"]: {hubspot.follow(contact) for contact in deal["contacts"]} for deal in start["deals"]}
    for delta in sorted(read(expected / "hubspot.deal-stages.jsonl"), key=lambda delta: delta["at"]):
        deal = delta["deal_id"]
        person = delta.get("contact_id")
        allowed = not delta["guard"]["require_associated_contact"] or (person is not None and hubspot.follow(person) in linked[deal])
        if not delta["shadow"] and allowed and deals[deal][-1] == delta["from_stage"]:
            deals[deal].append(delta["to_stage"])
    return events, dict(properties), deals, refused


def found(hubspot, folder):
    """The same of the snapshot. A contact that was made for an address goes by the address; an event's id names its click."""
    contacts = read(folder / "contacts.jsonl")
    made = {contact["id"]: contact["email"] for contact in contacts if contact["id"] not in hubspot.there}
    events = collections.Counter(
        (made.get(event["contact"], event["contact"]), event["id"].split(":")[1], event["title"], event["ts"])
        for event in read(folder / "events.jsonl"))
    properties = {made.get(contact["id"], contact["id"]): contact["properties"] for contact in contacts if contact["properties"]}
    return events, properties, {deal["id"]: deal["stages"] for deal in read(folder / "deals.jsonl")}


def differences(name, there, expected):
    """Prints how two mappings differ; says whether they do."""
    keys = sorted(key for key in there.keys() | expected.keys() if there.get(key) != expected.get(key))
    print(f"{name:<44} {len(expected):>9,}  {'DIFFERS' if keys else 'as expected'}")
    for key in keys[:SHOWN]:
        print(f"    {key}: found {there.get(key)}, expected {expected.get(key)}")
    if len(keys) > SHOWN:
        print(f"    and {len(keys) - SHOWN:,} more")
    return bool(keys)


def main(given, expected, snapshot):
    start = json.loads((given / "hubspot.json").read_text())
    hubspot = HubSpot(start)
    events, properties, deals, refused = wanted(hubspot, start, expected)
    there = found(hubspot, snapshot)
    wrong = [differences(name, actual, right) for name, actual, right in (
        ("events on timelines", there[0], events), ("contacts with last campaign values", there[1], properties), ("deals", there[2], deals))]
    per_stage = collections.Counter(stages[-1] for stages in deals.values())
    print(f"{'deals that moved':<44} {sum(len(stages) > 1 for stages in deals.values()):>9,}")
    for stage, count in sorted(per_stage.items()):
        print(f"{'deals in ' + stage:<44} {count:>9,}")
    print(f"{'contacts with an event':<44} {len({key[0] for key in events}):>9,}")
    print(f"{'events whose contact HubSpot does not have':<44} {refused:>9,}")
    return 1 if any(wrong) else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*(pathlib.Path(argument) for argument in sys.argv[1:])))
