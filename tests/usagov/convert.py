#!/usr/bin/env python3
"""Turns the real clicks of 1.usa.gov into clickline's input files.

    convert.py FOLDER OUT

FOLDER holds bit.ly's hourly files (JSON lines, plain or gzip). OUT gets clicks.jsonl, forms.jsonl, contacts.jsonl,
deals.jsonl, rules.yaml, hubspot.json (what HubSpot holds at the beginning) and report.json. The same FOLDER always gives
the same bytes.

Real: every click with its time, order, link, address, browser, place, language and campaign; lines that were delivered
twice; lines that were cut off. Invented, each by a hash of what is real, because bit.ly's records name nobody: which
browsers are one person, how a person can be known (from the link, by a form, not at all), forms, contacts, deals, rules.
"""

import collections
import gzip
import hashlib
import json
import pathlib
import sys
import urllib.parse

WORKSPACE = "usagov"
PORTAL = "1776"
SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000
# What a browser never says of itself. "http" is how crawlers give the address of their keeper.
MACHINES = ("bot", "crawl", "spider", "slurp", "http", "indexer", "producer", "monitor", "python", "java/", "curl", "wget", "kml-google")
WINDOWS = ("1h", "6h", "1d")
THRESHOLDS = (3, 5, 10)


def number(*parts):
    """A large number that depends on nothing but the parts."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:12], "big")


def click_id(line):
    """An id in the shape of a UUID. Equal lines get equal ids: one click, delivered twice."""
    digits = hashlib.sha256(line).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


def read_hours(folder):
    """All lines of all hours in the order of the hours, each with its hour's name."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("usagov_bitly_data"):
            continue
        raw = path.read_bytes()
        text = gzip.decompress(raw) if path.suffix == ".gz" else raw
        for line in text.splitlines():
            if line.strip():
                yield path.name, line


class Person:
    """One browser, place and language: whoever that was, and how the links knew them."""

    def __init__(self, record):
        self.seed = number(*(record.get(field) for field in ("a", "c", "gr", "cy", "tz", "al")))
        self.contact = str(1_000_000_000 + self.seed % 9_000_000_000)
        # 13 of 20 come with their contact id in the link, 4 with an advertisement's click id, 3 with nothing.
        self.known_by = (["eid"] * 13 + ["ad"] * 4 + [None] * 3)[self.seed // 7 % 20]
        # Every 40th was two contacts once; every 400th three.
        before = 2 if self.seed % 400 == 0 else 1 if self.seed % 40 == 0 else 0
        self.merged = [str(int(self.contact) + 10_000_000_000 * (n + 1)) for n in range(before)]
        self.email = f"p{self.contact}@people.example"

    def name_in_link(self, hour):
        """The id that this hour's links carry: now and then one from before a merge."""
        names = [self.contact, *self.merged]
        return names[number(self.contact, hour) % len(names)]


def campaign(address):
    """The campaign values of the address that the link leads to."""
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))
    return {field: query.get(f"utm_{field}", "").strip() or None for field in ("source", "medium", "campaign", "term", "content")}


def tags_of(host):
    """The host, and its last two labels if those are not the host: `www.nasa.gov` and `nasa.gov`."""
    site = ".".join(host.split(".")[-2:])
    return [host] if site == host else [host, site]


def device(agent):
    """Device, operating system and browser, roughly; nothing depends on them."""
    def first(*words):
        return next((word for word in words if word.lower() in agent.lower()), None)
    kind = "mobile" if first("iphone", "android", "mobile", "blackberry") else "tablet" if first("ipad") else "desktop"
    return {"device": kind, "os": first("Windows", "iPhone", "iPad", "Mac OS X", "Android", "Linux"),
            "browser": first("MSIE", "Firefox", "Chrome", "Safari", "Opera")}


def ad_ids(person, hour):
    """The click ids of an advertisement that led this person here in this hour."""
    value = number(person.contact, hour, "ad")
    gclid, fbclid = f"Cj0K{value:024x}", f"IwAR{value:024x}"
    return [(gclid, None), (gclid, None), (None, fbclid), (gclid, fbclid)][value % 4]


def click_record(line, hour, record, person, bot):
    """The click as the redirect server would have put it on the topic."""
    host = (urllib.parse.urlsplit(record["u"]).hostname or "").strip(".")
    gclid, fbclid = ad_ids(person, hour) if person.known_by == "ad" else (None, None)
    referrer = record.get("r")
    return {
        "v": 1, "id": click_id(line), "ts": record["t"] * SECOND, "workspace": WORKSPACE,
        "link": f"1.usa.gov/{record['g']}", "title": host, "destination": record["u"], "tags": tags_of(host), "deal_id": None,
        "contact_id": person.name_in_link(hour) if person.known_by == "eid" else None, "fbclid": fbclid, "gclid": gclid,
        "utm": campaign(record["u"]), "referrer": None if referrer in (None, "direct") else referrer,
        "user_agent": record["a"], **device(record["a"]), "country": record.get("c") or None, "bot": bot,
    }


def forms_of(person, click):
    """What a person who came by an advertisement sent in: before the click, after it, at the bounds, too late, never."""
    seed = number(person.contact, click["gclid"], click["fbclid"], "form")
    spread = seed // 100
    before, after = spread % (13 * DAY), 1 + spread % (71 * HOUR)
    # (time from the click, whose address): the address of a friend who used the same link, for the last of them.
    plans = [
        [(-before, 0)], [(-before, 0)], [(after, 0)], [(after, 0)], [],
        [(0, 0)],
        [(-14 * DAY, 0)] if spread % 2 else [(72 * HOUR, 0)],
        [(-14 * DAY - 1, 0), (72 * HOUR + 1, 0)],
        [(-before - HOUR, 1), (-before, 0), (after, 1)],
        [(after, 0), (after + 7, 1)],
    ]
    fields = [("gclid", click["gclid"]), ("fbclid", click["fbclid"])]
    for n, (offset, friend) in enumerate(plans[seed % 10]):
        # A person with two click ids sends in the first form with one, the next with the other.
        carried = [(field, value) for field, value in fields if value]
        field, value = carried[(seed // 10 + n) % len(carried)]
        email = f"friend-of-{person.email}" if friend else person.email
        yield {"v": 1, "id": f"f-{seed:024x}-{n}", "ts": click["ts"] + offset, "workspace": WORKSPACE,
               "email": f" {email.upper()} " if seed // 10 % 3 == 0 else email,
               "fbclid": value if field == "fbclid" else None, "gclid": value if field == "gclid" else None}


def contact_records(person):
    """The person as HubSpot knows them; one in ten is not known there, one in three of the addresses neither."""
    if person.seed // 11 % 10 == 9:
        return
    address = person.seed // 13 % 3
    yield {"v": 1, "portal": PORTAL, "contact_id": person.contact,
           "email": person.email if address == 0 else f"office-{person.email}",
           "additional_emails": [person.email.title()] if address == 1 else [],
           "merged_ids": person.merged[:1]}
    # A merge of a merge: HubSpot may still hold the one in the middle.
    for merged, older in zip(person.merged, person.merged[1:]):
        yield {"v": 1, "portal": PORTAL, "contact_id": merged, "email": None, "additional_emails": [], "merged_ids": [older]}


def deal_records(persons):
    """Deals of every sort: large, small, without an amount, further on, in another pipeline, shared, nobody's."""
    amounts = (12_000.0, 4_999.99, 5_000.0, None, 0.0, 250_000.0)
    for n, person in enumerate(persons):
        names = [person.contact, *person.merged]
        contacts = [] if n % 17 == 16 else [names[n % len(names)]]
        if n % 7 == 6:
            contacts.append(persons[(n * 31 + 1) % len(persons)].contact)
        yield {"v": 1, "portal": PORTAL, "deal_id": str(90_000 + n), "pipeline": "partners" if n % 13 == 12 else "default",
               "stage": "qualifiedtobuy" if n % 11 == 10 else "appointmentscheduled", "amount": amounts[n % len(amounts)],
               "contact_ids": contacts}


def hubspot_of(persons, deals):
    """What HubSpot holds when the clicks begin, so that a sandbox can be filled: more than the mirror knows, and a little less.

    It has a contact for every person of the mirror, merged as there; for every other person that a link names (every 500th
    of them is deleted again), each name its own; none for other strangers. A further address comes as HubSpot gets
    them: with a contact that was merged. Deals are as in the mirror, without those of the other pipeline.
    """
    contacts, merges = [], []
    for person in persons:
        if person.known_by is None:
            continue
        mirrored = list(contact_records(person))
        if mirrored:
            contacts.append({"id": person.contact, "email": mirrored[0]["email"]})
            contacts += [{"id": merged, "email": None} for merged in person.merged]
            # The oldest first: a merge of a merge.
            names = [person.contact, *person.merged]
            merges += [pair for pair in reversed(list(zip(names, names[1:])))]
            for further in mirrored[0]["additional_emails"]:
                other = str(int(person.contact) + 90_000_000_000)
                contacts.append({"id": other, "email": further.lower()})
                merges.append((person.contact, other))
        elif person.known_by == "eid" and person.seed // 17 % 500:
            contacts += [{"id": name, "email": None} for name in (person.contact, *person.merged)]
    there = {contact["id"] for contact in contacts}
    kept = [{"id": deal["deal_id"], "stage": deal["stage"], "amount": deal["amount"],
             "contacts": [contact for contact in deal["contact_ids"] if contact in there]}
            for deal in deals if deal["pipeline"] == "default"]
    return {"contacts": contacts, "merges": merges, "deals": kept}


def rule(name, trigger, window, threshold, stages=("appointmentscheduled", "qualifiedtobuy"), mode="live", **guard):
    """A rule as its file holds it."""
    return {"name": name, "mode": mode,
            "trigger": {**trigger, "contact_window": window, "click_threshold": threshold},
            "action": {"type": "advance_deal_stage", "pipeline": "default", "from_stage": stages[0], "to_stage": stages[1], "guard": guard}}


def rules_for(tags, links):
    """Rules on the most clicked tags and links, of every threshold and window."""
    made = []
    for n, tag in enumerate(tags[:9]):
        guard = {"deal_amount_min": 5_000} if n % 2 else {}
        made.append(rule(f"tag-{n + 1}", {"link_tag": tag}, WINDOWS[n // 3], THRESHOLDS[n % 3], **guard))
    for n, link in enumerate(links[:4]):
        made.append(rule(f"link-{n + 1}", {"link": link}, WINDOWS[n % 3], 3, require_associated_contact=True))
    made.append(rule("month", {"link_tag": tags[0]}, "30d", 10, deal_amount_min=5_000))
    made.append(rule("next", {"link_tag": tags[0]}, "1h", 5, stages=("qualifiedtobuy", "presentationscheduled")))
    made.append(rule("watch", {"link_tag": tags[1]}, "1h", 3, mode="shadow"))
    made.append(rule("asleep", {"link_tag": tags[1]}, "1h", 3, mode="off"))
    made.append(rule("by-deal", {"link_tag": tags[0]}, "6h", 10, require_associated_contact=False))
    return made


def write_lines(path, records):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(record if isinstance(record, str) else json.dumps(record, separators=(",", ":"), ensure_ascii=False))
            file.write("\n")


def convert(folder, out):
    report = collections.Counter()
    persons, clicks, forms = {}, [], {}
    by_tag, by_link, by_person = collections.Counter(), collections.Counter(), collections.Counter()
    asked = set()
    for hour, line in read_hours(folder):
        report["lines"] += 1
        try:
            record = json.loads(line)
        except ValueError:
            # Goes in as it is: the job must put it aside, and say so.
            report["cut off"] += 1
            clicks.append(line.decode("utf-8", "replace"))
            continue
        if "_heartbeat_" in record:
            report["heartbeats"] += 1
            continue
        if not all(record.get(field) for field in ("g", "t", "u", "a")):
            report["without link, time, address or browser"] += 1
            continue
        person = Person(record)
        person = persons.setdefault(person.contact, person)
        bot = "user-agent" if any(word in record["a"].lower() for word in MACHINES) else None
        click = click_record(line, hour, record, person, bot)
        report["clicks"] += 1
        if bot:
            report["clicks of machines"] += 1
        else:
            by_tag.update(click["tags"])
            by_link[click["link"]] += 1
            by_person[person.contact] += 1
            report["clicks of " + {"eid": "named contacts", "ad": "advertisements", None: "nobody"}[person.known_by]] += 1
        if any(click["utm"].values()):
            report["clicks with campaign values"] += 1
        if person.known_by == "ad" and not bot and (person.contact, hour) not in asked:
            asked.add((person.contact, hour))
            for form in forms_of(person, click):
                forms[form["id"]] = form
        clicks.append(click)

    def top(counter):
        return [key for key, _ in sorted(counter.items(), key=lambda item: (-item[1], item[0]))]
    tags, links, busy = top(by_tag), top(by_link), [persons[contact] for contact in top(by_person)]
    # Middling links are made for one deal each; the most clicked ones are news, which no deal hangs on.
    deal_links = {link: str(80_000 + n) for n, link in enumerate(links[40:60])}
    for click in clicks:
        if isinstance(click, dict):
            click["deal_id"] = deal_links.get(click["link"])
    named, advertised = ([person for person in busy if person.known_by == how] for how in ("eid", "ad"))
    deals = list(deal_records(named[:400] + advertised[:150] + named[400::211]))
    deals += [{"v": 1, "portal": PORTAL, "deal_id": deal, "pipeline": "default", "stage": "appointmentscheduled", "amount": 9_000.0, "contact_ids": []}
              for deal in deal_links.values()]
    contacts = [record for contact in sorted(persons) if persons[contact].known_by for record in contact_records(persons[contact])]
    forms = sorted(forms.values(), key=lambda form: (form["ts"], form["id"]))
    report["forms"] = len(forms)
    # Every 50th form is delivered twice, as bit.ly's lines are.
    forms = [form for n, form in enumerate(forms) for _ in range(2 if n % 50 == 0 else 1)]
    rules = rules_for(tags, links)

    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / "clicks.jsonl", clicks)
    write_lines(out / "forms.jsonl", forms)
    write_lines(out / "contacts.jsonl", contacts)
    write_lines(out / "deals.jsonl", deals)
    # JSON is YAML, and the plain program that reads it has no YAML parser.
    (out / "rules.yaml").write_text(json.dumps(rules, indent=1) + "\n", encoding="utf-8")
    hubspot = hubspot_of([persons[contact] for contact in sorted(persons)], deals)
    (out / "hubspot.json").write_text(json.dumps(hubspot) + "\n", encoding="utf-8")
    distinct = {click["id"] for click in clicks if isinstance(click, dict)}
    report |= {"distinct clicks": len(distinct), "links": len({c["link"] for c in clicks if isinstance(c, dict)}), "tags": len(by_tag),
               "persons": len(persons), "contacts": len(contacts), "deals": len(deals), "rules": len(rules)}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for what, count in sorted(convert(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])).items()):
        print(f"{count:>9,}  {what}")
