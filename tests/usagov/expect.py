#!/usr/bin/env python3
"""Works out, slowly and plainly, what clickline must put out for a folder of input files.

    expect.py INPUT OUT [--run-on]

INPUT holds clicks.jsonl, forms.jsonl, contacts.jsonl, deals.jsonl and rules.yaml (written as JSON) as convert.py makes
them: one workspace, connected to one portal, contacts and deals known from the beginning. OUT gets one file of records
for each output topic, with the fields that the contract fixes, and counts.json.

The clock stands still after the tick of the last record. With --run-on it goes on for a month, as it does for a live job
that has read its topics to the end: every hold is decided and every window of up to 30 days has emptied.

It shares no code with the job, keeps no running state where it can look at everything instead, and follows the numbers
of the contract's sections.
"""

import collections
import json
import pathlib
import sys

TICK = 1_000
DAY = 86_400_000
FORM_BEFORE, HOLD = 14 * DAY, 72 * 3_600_000
DEDUPE_HORIZON = 72 * 3_600_000
MAX_FUTURE = 5 * 60_000
RUN_ON = 31 * DAY
UNITS = {"d": DAY, "h": 3_600_000, "m": 60_000}
UTM = {"source": "elido_last_utm_source", "campaign": "elido_last_utm_campaign", "medium": "elido_last_utm_medium"}


def tick_end(at):
    """Section 1: log time, rounded up to a tick."""
    return -(-at // TICK) * TICK


def email_of(text):
    """Section 3: compared trimmed and in lower case."""
    return text.strip().lower()


class Input:
    """The files, each record with the tick's end at which it is seen (`seen`)."""

    def __init__(self, folder):
        self.dead = []
        self.clicks = self.log(folder / "clicks.jsonl")
        self.forms = self.log(folder / "forms.jsonl")
        self.contacts = {r["contact_id"]: r for r in self.lines(folder / "contacts.jsonl")}
        self.deals = {r["deal_id"]: r for r in self.lines(folder / "deals.jsonl")}
        self.rules = [rule for rule in json.loads((folder / "rules.yaml").read_text()) if rule["mode"] != "off"]
        portals = {record["portal"] for record in [*self.contacts.values(), *self.deals.values()]}
        assert len(portals) == 1, f"one portal, not {sorted(portals)}"
        self.portal = portals.pop()
        self.end = max(record["seen"] for record in self.clicks + self.forms)

    @staticmethod
    def lines(path):
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def log(self, path):
        """Clicks or forms: the log time is the greatest event time so far; what repeats an id has no effect."""
        records, last_seen, log_time = [], {}, 0
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                except ValueError:
                    self.dead.append({"reason": "json", "file": path.name, "line": number})
                    continue
                log_time = max(log_time, record["ts"])
                assert record["ts"] <= log_time + MAX_FUTURE
                seen = record["seen"] = tick_end(log_time)
                before = last_seen.get(record["id"])
                last_seen[record["id"]] = seen
                if before is None or seen - before > DEDUPE_HORIZON:
                    records.append(record)
        return records


class Persons:
    """Section 3, last part: whom a contact id or an e-mail stands for."""

    def __init__(self, contacts):
        self.by_merged, self.by_email = {}, {}
        for contact in contacts.values():
            for merged in contact["merged_ids"]:
                self.by_merged[merged] = contact["contact_id"]
            for email in contact["additional_emails"]:
                self.by_email.setdefault(email_of(email), contact["contact_id"])
        for contact in contacts.values():
            if contact["email"]:
                self.by_email[email_of(contact["email"])] = contact["contact_id"]

    def of_contact(self, contact):
        while contact in self.by_merged:
            contact = self.by_merged[contact]
        return ("contact_id", contact)

    def of_email(self, email):
        contact = self.by_email.get(email_of(email))
        return ("email", email_of(email)) if contact is None else self.of_contact(contact)


def resolve(click, forms, end):
    """Section 3: `(tick, "eid")`, `(tick, form)`, `(tick, None)` for expired, or None: held at the end, or not to be resolved.

    `forms` are all those that carry one of the click's ids.
    """
    if click["bot"] is not None:
        return None
    if click["contact_id"]:
        return click["seen"], "eid"
    if not click["gclid"] and not click["fbclid"]:
        return None
    expires = tick_end(click["ts"] + HOLD + 1)
    earliest, latest = click["ts"] - FORM_BEFORE, click["ts"] + HOLD
    # Every tick at which something can happen to the click, in order; forms come before expiry.
    ticks = {max(form["seen"], click["seen"]) for form in forms} | {click["seen"], max(expires, click["seen"])}
    for t in sorted(ticks):
        if t > end:
            return None
        known = [form for form in forms if form["seen"] <= t and earliest <= form["ts"] <= latest]
        before = [form for form in known if form["ts"] <= click["ts"]]
        if before:
            return t, max(before, key=lambda form: (form["ts"], form["id"]))
        if known:
            return t, min(known, key=lambda form: (form["ts"], form["id"]))
        if t >= expires:
            return t, None
    raise AssertionError("a click expires at the latest")


def window_counts(clicks, window, end):
    """Section 6: one count over time, as `(tick, count, last click that counts or None)`.

    `clicks` are `(seen, ts, id)`. The count is made anew, over all of them, at every tick at which it can differ: where
    a click is seen, and where one is exactly one window old.
    """
    ticks = {seen for seen, _, _ in clicks} | {tick_end(ts + window) for _, ts, _ in clicks}
    counts = []
    for t in sorted(tick for tick in ticks if tick <= end):
        inside = [(ts, click) for seen, ts, click in clicks if seen <= t and t - window < ts <= t]
        counts.append((t, len(inside), max(inside, default=None)))
    return counts


def hot_periods(counts, threshold):
    """Section 7: where the count reaches the threshold from below: `(tick, count, last click)`."""
    periods, hot = [], False
    for t, count, last in counts:
        if count >= threshold and not hot:
            periods.append((t, count, last))
        hot = count >= threshold
    return periods


def eligible(rule, deal, person, persons):
    """Section 7: in pipeline and stage, guards hold, and the person is among its contacts if that is asked."""
    action, guard = rule["action"], rule["action"]["guard"]
    if (deal["pipeline"], deal["stage"]) != (action["pipeline"], action["from_stage"]):
        return False
    least = guard.get("deal_amount_min")
    if least is not None and (deal["amount"] is None or deal["amount"] < least):
        return False
    if not guard.get("require_associated_contact", True):
        return person == ("deal_id", deal["deal_id"])
    return person in [persons.of_contact(contact) for contact in deal["contact_ids"]]


def last_values(resolved):
    """Section 5: every change of a person's last campaign values, as `(tick, properties, where from)`.

    `resolved` are `(tick, click)` of one person. At each tick all of them are looked at.
    """
    told, changes = {}, []
    for t in sorted({tick for tick, _ in resolved}):
        changed, come_from = {}, {}
        for field, name in UTM.items():
            having = [(click["ts"], click["id"], click["utm"][field]) for tick, click in resolved if tick <= t and click["utm"][field]]
            if having and max(having)[2] != told.get(name):
                ts, click, told[name] = max(having)
                changed[name], come_from[name] = told[name], {"click_id": click, "ts": ts}
        if changed:
            changes.append((t, changed, come_from))
    return changes


def measure(rule):
    """What a rule counts: `(kind, tag or link, window)`."""
    trigger = rule["trigger"]
    kind = "link_tag" if "link_tag" in trigger else "link"
    text = trigger["contact_window"]
    return kind, trigger[kind], int(text[:-1]) * UNITS[text[-1]]


def counts_of(click, kind, what):
    return what in click["tags"] if kind == "link_tag" else what == click["link"]


def expected(given, run_on):
    """All outputs, by topic."""
    end = given.end + (RUN_ON if run_on else 0)
    persons = Persons(given.contacts)
    out = collections.defaultdict(list)
    out["dead-letters"] = given.dead
    carrying = collections.defaultdict(list)
    for form in given.forms:
        for field in ("gclid", "fbclid"):
            if form[field]:
                carrying[form["workspace"], field, form[field]].append(form)

    # Sections 3 and 4: each click on its own. `by_subject` has for each person and deal the clicks that are its, and since when.
    by_subject = collections.defaultdict(list)
    resolved = collections.defaultdict(list)
    for click in given.clicks:
        if click["bot"] is None and click["deal_id"]:
            by_subject["deal_id", click["deal_id"]].append((click["seen"], click))
        mine = [form for field in ("gclid", "fbclid") if click[field] for form in carrying[click["workspace"], field, click[field]]]
        answer = resolve(click, mine, end)
        if answer is None:
            continue
        at, how = answer
        if how is None:
            out["clicks.unresolved"].append({"click_id": click["id"], "reason": "hold-expired", "at": at})
            continue
        if how == "eid":
            person, found = persons.of_contact(click["contact_id"]), {"by": "eid"}
        else:
            person = persons.of_email(how["email"])
            found = {"by": "form", "form_id": how["id"], "form_ts": how["ts"], "after_click_ms": how["ts"] - click["ts"]}
        by_subject[person].append((at, click))
        resolved[person].append((at, click))
        out["hubspot.timeline"].append({
            "portal": given.portal, "workspace": click["workspace"], "click_id": click["id"], "ts": click["ts"], person[0]: person[1],
            "title": f"Clicked: {click['title']} ({click['link']})", "found": found, "at": at})

    for person, clicks in resolved.items():
        for at, properties, come_from in last_values(clicks):
            out["hubspot.contact-properties"].append(
                {"portal": given.portal, person[0]: person[1], "properties": properties, "from": come_from, "at": at})

    # Sections 6 and 7. Rules that ask for an associated contact count persons, the others the deals that links name.
    def counts_deals(rule):
        return not rule["action"]["guard"].get("require_associated_contact", True)
    wanted = collections.defaultdict(list)
    for rule in given.rules:
        wanted[counts_deals(rule), measure(rule)].append(rule)
    for subject, clicks in by_subject.items():
        workspace = clicks[0][1]["workspace"]
        for (by_deal, (kind, what, window)), rules in wanted.items():
            counted = [(seen, click["ts"], click["id"]) for seen, click in clicks if counts_of(click, kind, what)]
            if by_deal != (subject[0] == "deal_id") or not counted:
                continue
            counts = window_counts(counted, window, end)
            about = {"portal": given.portal, "workspace": workspace, subject[0]: subject[1], kind: what, "window_ms": window}
            was = 0
            for t, count, _ in counts:
                if count != was:
                    out["clicks.counts"].append({**about, "count": count, "at": t})
                    was = count
            for rule in rules:
                for t, count, last in hot_periods(counts, rule["trigger"]["click_threshold"]):
                    for deal in given.deals.values():
                        if eligible(rule, deal, subject, persons):
                            out["hubspot.deal-stages"].append(stage_delta(rule, deal, about, t, count, last))
    return out


def stage_delta(rule, deal, about, t, count, last):
    action = rule["action"]
    return {**about, "rule": rule["name"], "shadow": rule["mode"] == "shadow", "deal_id": deal["deal_id"],
              "pipeline": action["pipeline"], "from_stage": action["from_stage"], "to_stage": action["to_stage"],
              "guard": {"require_associated_contact": action["guard"].get("require_associated_contact", True),
                        "deal_amount_min": action["guard"].get("deal_amount_min")},
              "threshold": rule["trigger"]["click_threshold"], "count": count, "hot_since": t,
              "last_click": {"id": last[1], "ts": last[0]}, "at": t}


def summary(given, out):
    """What there is of each, for people."""
    how = collections.Counter()
    for event in out["hubspot.timeline"]:
        found = event["found"]
        how["by eid" if found["by"] == "eid" else "by a form " + ("after the click" if found["after_click_ms"] > 0 else "before the click")] += 1
        how["of a contact" if "contact_id" in event else "of an e-mail that no contact has"] += 1
    final = {}
    for count in sorted(out["clicks.counts"], key=lambda record: record["at"]):
        key = tuple(count.get(field) for field in ("contact_id", "email", "deal_id", "link_tag", "link", "window_ms"))
        final[key] = count["count"]
    moved = {(record["rule"], record["deal_id"]) for record in out["hubspot.deal-stages"]}
    return {
        "clicks, each once": len(given.clicks), "forms, each once": len(given.forms),
        **{f"timeline events {name}": count for name, count in sorted(how.items())},
        **{topic: len(records) for topic, records in sorted(out.items())},
        "deals that move by a live rule": len({r["deal_id"] for r in out["hubspot.deal-stages"] if not r["shadow"]}),
        "pairs of rule and deal": len(moved), "counts above 0 at the end": sum(1 for count in final.values() if count),
    }


TOPICS = ("hubspot.timeline", "hubspot.contact-properties", "hubspot.deal-stages", "clicks.unresolved", "clicks.counts", "dead-letters")


def main(arguments):
    run_on = "--run-on" in arguments
    folders = [argument for argument in arguments if argument != "--run-on"]
    if len(folders) != 2:
        sys.exit(__doc__)
    given, target = Input(pathlib.Path(folders[0])), pathlib.Path(folders[1])
    out = expected(given, run_on)
    target.mkdir(parents=True, exist_ok=True)
    for topic in TOPICS:
        with open(target / f"{topic}.jsonl", "w", encoding="utf-8") as file:
            for record in out[topic]:
                file.write(json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n")
    counts = summary(given, out)
    (target / "counts.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    for what, count in counts.items():
        print(f"{count:>9,}  {what}")


if __name__ == "__main__":
    main(sys.argv[1:])
