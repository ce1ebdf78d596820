"""Tests of the plain programs: tiny inputs, answers worked out by hand."""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import check
import check_backtest
import check_hubspot
import convert
import expect

HOUR, DAY = 3_600_000, 86_400_000
START = 1_000 * DAY


def click(n, ts, **fields):
    blank = {"id": f"c{n}", "ts": ts, "workspace": "w", "link": "s/x", "title": "X", "tags": ["t"], "deal_id": None, "contact_id": None,
             "gclid": None, "fbclid": None, "bot": None, "utm": {"source": None, "medium": None, "campaign": None}, "seen": expect.tick_end(ts)}
    return blank | fields


def form(n, ts, email="a@x", **fields):
    return {"id": f"f{n}", "ts": ts, "workspace": "w", "email": email, "gclid": "g", "fbclid": None, "seen": expect.tick_end(ts)} | fields


def contact(name, email=None, additional=(), merged=()):
    return {"portal": "1", "contact_id": name, "email": email, "additional_emails": list(additional), "merged_ids": list(merged)}


def deal(name, contacts, amount=9_000.0, stage="a", pipeline="p"):
    return {"portal": "1", "deal_id": name, "pipeline": pipeline, "stage": stage, "amount": amount, "contact_ids": contacts}


def rule(name, threshold, window="1h", mode="live", **guard):
    return {"name": name, "mode": mode, "trigger": {"link_tag": "t", "contact_window": window, "click_threshold": threshold},
            "action": {"type": "advance_deal_stage", "pipeline": "p", "from_stage": "a", "to_stage": "b", "guard": guard}}


def given(clicks, forms=(), contacts=(contact("1"),), deals=(), rules=()):
    """What expect.py reads from files with these records; text goes in as it is."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file, records in (("clicks", clicks), ("forms", forms), ("contacts", contacts), ("deals", deals)):
            lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
            (folder / f"{file}.jsonl").write_text("".join(line + "\n" for line in lines))
        (folder / "rules.yaml").write_text(json.dumps(list(rules)))
        return expect.Input(folder)


class Time(unittest.TestCase):
    def test_a_tick_ends_at_a_whole_second(self):
        self.assertEqual([expect.tick_end(at) for at in (0, 1, 1_000, 1_001)], [0, 1_000, 1_000, 2_000])

    def test_the_log_time_is_the_greatest_time_so_far_and_repeats_have_no_effect(self):
        lines = [click(1, START + 5_000), click(2, START + 1_000), '{"cut', click(1, START + 9_000), click(3, START + 6_001)]
        log = given(lines)
        self.assertEqual([(c["id"], c["seen"] - START) for c in log.clicks], [("c1", 5_000), ("c2", 5_000), ("c3", 9_000)])
        self.assertEqual(log.dead, [{"reason": "json", "file": "clicks.jsonl", "line": 3}])
        self.assertEqual(log.end, START + 9_000)

    def test_an_id_is_forgotten_after_72_hours(self):
        lines = [click(1, START), click(1, START + 72 * HOUR), click(1, START + 145 * HOUR)]
        self.assertEqual([c["ts"] - START for c in given(lines).clicks], [0, 145 * HOUR])


class Resolution(unittest.TestCase):
    END = START + 100 * DAY

    def how(self, one, *forms, end=END):
        answer = expect.resolve(one, list(forms), end)
        return answer and (answer[0] - START, answer[1]["id"] if isinstance(answer[1], dict) else answer[1])

    def test_a_named_contact_at_once_a_machine_and_a_stranger_never(self):
        self.assertEqual(self.how(click(1, START + 1, contact_id="7")), (1_000, "eid"))
        self.assertIsNone(self.how(click(1, START + 1, contact_id="7", bot="head")))
        self.assertIsNone(self.how(click(1, START + 1)))

    def test_of_earlier_forms_the_latest_at_once(self):
        one = click(1, START, gclid="g")
        self.assertEqual(self.how(one, form(1, START - 14 * DAY), form(2, START - 5), form(3, START - 5), form(4, START + 1)), (0, "f3"))
        self.assertEqual(self.how(one, form(1, START - 14 * DAY)), (0, "f1"))
        self.assertEqual(self.how(one, form(1, START)), (0, "f1"))

    def test_else_the_first_later_one_when_it_comes(self):
        one = click(1, START, gclid="g")
        self.assertEqual(self.how(one, form(2, START + 5_500), form(1, START + 9_000)), (6_000, "f2"))
        self.assertEqual(self.how(one, form(1, START - 14 * DAY - 1), form(2, START + 72 * HOUR)), (72 * HOUR, "f2"))

    def test_else_it_expires_when_the_clock_passes_72_hours(self):
        one = click(1, START, gclid="g")
        self.assertEqual(self.how(one, form(1, START + 72 * HOUR + 1)), (72 * HOUR + 1_000, None))
        self.assertIsNone(self.how(one, end=START + 72 * HOUR), "still held at the end")
        between = click(1, START + 1, gclid="g")
        self.assertEqual(self.how(between), (72 * HOUR + 1_000, None))

    def test_a_form_in_the_tick_in_which_the_hold_ends_still_counts(self):
        one = click(1, START + 500, gclid="g")
        self.assertEqual(self.how(one, form(1, START + 72 * HOUR + 400)), (72 * HOUR + 1_000, "f1"))

    def test_a_late_click_takes_a_form_that_it_lies_before(self):
        one = click(1, START, gclid="g", seen=START + 3_000)
        self.assertEqual(self.how(one, form(1, START + 1_000)), (3_000, "f1"))


class Persons(unittest.TestCase):
    def test_merges_and_addresses_are_followed_to_their_end(self):
        people = [contact("1", "Main@x", [" Other@X "], ["2"]), contact("2", None, (), ["3"])]
        persons = expect.Persons({one["contact_id"]: one for one in people})
        self.assertEqual(persons.of_contact("3"), ("contact_id", "1"))
        self.assertEqual(persons.of_email("OTHER@x"), ("contact_id", "1"))
        self.assertEqual(persons.of_email(" main@x"), ("contact_id", "1"))
        self.assertEqual(persons.of_email("new@x"), ("email", "new@x"))
        self.assertEqual(persons.of_contact("9"), ("contact_id", "9"))


class Counts(unittest.TestCase):
    def test_a_click_exactly_one_window_old_no_longer_counts(self):
        clicks = [(START, START, "a"), (START + 2_000, START + 1_500, "b")]
        self.assertEqual(
            [(t - START, n) for t, n, _ in expect.window_counts(clicks, 5_000, START + DAY)],
            [(0, 1), (2_000, 2), (5_000, 1), (7_000, 0)])
        self.assertEqual(len(expect.window_counts(clicks, 5_000, START + 6_000)), 3, "the clock stands still at the end")

    def test_a_click_resolved_late_counts_from_then(self):
        clicks = [(START + 4_000, START, "a")]
        self.assertEqual(expect.window_counts(clicks, 5_000, START + DAY), [(START + 4_000, 1, (START, "a")), (START + 5_000, 0, None)])
        self.assertEqual(expect.window_counts([(START + 9_000, START, "a")], 5_000, START + DAY), [(START + 5_000, 0, None), (START + 9_000, 0, None)])

    def test_hot_periods_begin_where_the_threshold_is_reached_from_below(self):
        counts = [(1, 2, "a"), (2, 3, "b"), (3, 4, "c"), (4, 3, "c"), (5, 2, "c"), (6, 5, "d")]
        self.assertEqual(expect.hot_periods(counts, 3), [(2, 3, "b"), (6, 5, "d")])


class Whole(unittest.TestCase):
    def test_deals_move_once_a_hot_period_by_every_rule_that_lets_them(self):
        clicks = [click(n, START + at, contact_id="1") for n, at in enumerate((0, 1_000, 2_000, 2 * HOUR, 2 * HOUR + 1, 2 * HOUR + 2))]
        deals = [deal("rich", ["1"]), deal("poor", ["1"], 10.0), deal("unknown", ["1"], None), deal("late", ["1"], stage="b"),
                 deal("elsewhere", ["1"], pipeline="q"), deal("other's", ["2"])]
        rules = [rule("all", 3), rule("rich", 2, deal_amount_min=5_000), rule("asleep", 1, mode="off"), rule("watch", 3, mode="shadow", deal_amount_min=5_000)]
        moved = [(r["rule"], r["deal_id"], r["at"] - START, r["count"], r["last_click"]["id"], r["shadow"])
                 for r in expect.expected(given(clicks, deals=deals, rules=rules), False)["hubspot.deal-stages"]]
        again = 2 * HOUR + 1_000
        self.assertCountEqual(moved, [
            ("all", "rich", 2_000, 3, "c2", False), ("all", "poor", 2_000, 3, "c2", False), ("all", "unknown", 2_000, 3, "c2", False),
            ("rich", "rich", 1_000, 2, "c1", False), ("watch", "rich", 2_000, 3, "c2", True),
            ("all", "rich", again, 3, "c5", False), ("all", "poor", again, 3, "c5", False), ("all", "unknown", again, 3, "c5", False),
            ("rich", "rich", again, 3, "c5", False), ("watch", "rich", again, 3, "c5", True)])

    def test_a_rule_on_a_deal_s_own_links_counts_strangers_too(self):
        clicks = [click(1, START, deal_id="d"), click(2, START, deal_id="d", contact_id="1"), click(3, START, deal_id="d", bot="head")]
        log = given(clicks, deals=[deal("d", []), deal("e", ["1"])], rules=[rule("own", 2, require_associated_contact=False)])
        out = expect.expected(log, False)
        self.assertEqual([(r["deal_id"], r["count"]) for r in out["hubspot.deal-stages"]], [("d", 2)])
        self.assertEqual([(r.get("deal_id"), r["count"]) for r in out["clicks.counts"]], [("d", 2)])

    def test_last_campaign_values_go_by_the_click_s_time(self):
        def utm(source, medium=None):
            return {"source": source, "medium": medium, "campaign": None}
        forms = [form(1, START + 30_000)]
        people = [contact("1", "a@x")]
        clicks = [click(1, START, gclid="g", utm=utm("old")), click(2, START + 10_000, contact_id="1", utm=utm("new", "mail")),
                  click(3, START + 20_000, contact_id="1", utm=utm("new")), click(4, START + 40_000, contact_id="1", utm=utm("newest"))]
        changes = expect.expected(given(clicks, forms, people), False)["hubspot.contact-properties"]
        source, medium = "elido_last_utm_source", "elido_last_utm_medium"
        self.assertEqual([(c["at"] - START, c["properties"], c["from"][source]["click_id"]) for c in changes],
                         [(10_000, {source: "new", medium: "mail"}, "c2"), (40_000, {source: "newest"}, "c4")])

    def test_the_clock_runs_on_only_when_asked(self):
        log = given([click(1, START, gclid="g"), click(2, START, contact_id="1")], rules=[rule("r", 5)])
        still, on = (expect.expected(log, run_on) for run_on in (False, True))
        self.assertEqual([len(still[topic]) for topic in ("clicks.unresolved", "clicks.counts")], [0, 1])
        self.assertEqual([len(on[topic]) for topic in ("clicks.unresolved", "clicks.counts")], [1, 2])


class Check(unittest.TestCase):
    EVENT = {"v": 1, "id": "e1", "portal": "1", "contact_id": "7", "tokens": {}, "extra_data": {}, "at": 5}
    WANTED = {"portal": "1", "contact_id": "7", "at": 5}

    def verdict(self, actual, expected):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for side, records in (("out", actual), ("expected", expected)):
                (folder / side).mkdir()
                (folder / side / "hubspot.timeline.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
            with contextlib.redirect_stdout(io.StringIO()):
                return check.main(folder / "out", folder / "expected")

    def test_every_record_once_and_no_other(self):
        other = self.EVENT | {"id": "e2", "at": 6}
        self.assertEqual(self.verdict([self.EVENT], [self.WANTED]), 0)
        self.assertEqual(self.verdict([], [self.WANTED]), 1)
        self.assertEqual(self.verdict([self.EVENT, other], [self.WANTED]), 1)
        self.assertEqual(self.verdict([self.EVENT, self.EVENT], [self.WANTED, self.WANTED]), 1, "one id twice")
        self.assertEqual(self.verdict([other], [self.WANTED]), 1)
        self.assertEqual(self.verdict([self.EVENT | {"amount": {"least": 5.0}}], [self.WANTED | {"amount": {"least": 5}}]), 0)
        self.assertEqual(self.verdict([self.EVENT | {"amount": {"least": 5.5}}], [self.WANTED | {"amount": {"least": 5}}]), 1)


class CheckBacktest(unittest.TestCase):
    DELTA = {"rule": "r", "at": 1_000, "deal_id": "d", "contact_id": "7", "count": 3, "hot_since": 500, "window_ms": 1}
    ADVANCE = {"at": "1970-01-01T00:00:01.000Z", "portal": "1", "deal_id": "d", "contact_id": "7", "count": 3, "hot_since": "1970-01-01T00:00:00.500Z"}

    def code(self, deltas, mode="live", own=True):
        variants = [{"own": own, "advances": [self.ADVANCE]}, {"own": not own, "advances": []}]
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            folder = pathlib.Path(name)
            (folder / "hubspot.deal-stages.jsonl").write_text("".join(json.dumps(delta) + "\n" for delta in deltas))
            (folder / "backtest.json").write_text(json.dumps({"rules": [{"rule": "r", "mode": mode, "variants": variants}]}))
            return check_backtest.main(folder / "backtest.json", folder)

    def test_each_delta_is_an_advance_of_the_rule_as_it_is_written(self):
        self.assertEqual(self.code([self.DELTA]), 0)
        self.assertEqual(self.code([], mode="off"), 0)
        for wrong in ([], [self.DELTA] * 2, [self.DELTA | {"count": 4}], [self.DELTA | {"hot_since": 501}], [self.DELTA | {"contact_id": "8"}]):
            self.assertEqual(self.code(wrong), 1)
        self.assertEqual(self.code([self.DELTA], own=False), 1)


class CheckHubSpot(unittest.TestCase):
    START = {"contacts": [{"id": "1", "email": "a@x"}, {"id": "2", "email": None}], "merges": [("1", "2")],
             "deals": [{"id": "d", "stage": "a", "contacts": ["2"]}, {"id": "e", "stage": "a", "contacts": []}]}
    GUARD = {"require_associated_contact": True}

    def event(self, n, **person):
        return {"click_id": f"c{n}", "title": "T", "ts": n} | person

    def delta(self, deal, to_stage="b", shadow=False, at=1, **person):
        return {"deal_id": deal, "from_stage": "a", "to_stage": to_stage, "shadow": shadow, "guard": self.GUARD, "at": at} | person

    def wanted(self, events=(), changes=(), stages=()):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for topic, records in (("timeline", events), ("contact-properties", changes), ("deal-stages", stages)):
                (folder / f"hubspot.{topic}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
            return check_hubspot.wanted(check_hubspot.HubSpot(self.START), self.START, folder)

    def test_deltas_go_to_whoever_the_person_is_in_hubspot(self):
        events, _, _, refused = self.wanted(
            [self.event(1, contact_id="2"), self.event(2, email="a@x"), self.event(3, email="new@x"), self.event(4, contact_id="9")])
        self.assertEqual(set(events), {("1", "c1", "T", 1), ("1", "c2", "T", 2), ("new@x", "c3", "T", 3)})
        self.assertEqual(refused, 1)

    def test_the_last_value_stays(self):
        def change(at, value):
            return {"contact_id": "1", "properties": {"p": value}, "at": at}
        self.assertEqual(self.wanted(changes=[change(2, "new"), change(1, "old")])[1], {"1": {"p": "new"}})

    def test_a_deal_moves_once_if_its_contact_is_there_and_the_rule_is_live(self):
        deltas = [self.delta("d", shadow=True, to_stage="x", contact_id="1"), self.delta("d", contact_id="9"), self.delta("d", at=2, contact_id="1"),
                  self.delta("d", at=3, to_stage="z", contact_id="1"), self.delta("e", contact_id="1")]
        self.assertEqual(self.wanted(stages=deltas)[2], {"d": ["a", "b"], "e": ["a"]})

    def test_differences_are_found(self):
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertFalse(check_hubspot.differences("x", {"a": 1}, {"a": 1}))
            for there in ({}, {"a": 2}, {"a": 1, "b": 1}):
                self.assertTrue(check_hubspot.differences("x", there, {"a": 1}))


class Convert(unittest.TestCase):
    RECORD = {"a": "Mozilla/5.0 (iPhone)", "c": "US", "gr": "CA", "cy": "Concord", "tz": "America/Los_Angeles", "al": "en", "g": "TEUy0r",
              "t": 1_354_554_652, "u": "http://www.nasa.gov/page?utm_source=twitterfeed&utm_medium=twitter", "r": "direct"}

    def converted(self, lines):
        with tempfile.TemporaryDirectory() as name:
            source, out = pathlib.Path(name) / "in", pathlib.Path(name) / "out"
            source.mkdir()
            (source / "usagov_bitly_data2013-01-01-1.jsonl").write_text("".join(line + "\n" for line in lines))
            report = convert.convert(source, out)
            return report, (out / "clicks.jsonl").read_text().splitlines(), {path.name: path.read_bytes() for path in out.iterdir()}

    def test_a_record_becomes_a_click(self):
        report, lines, _ = self.converted([json.dumps(self.RECORD), '{"_heartbeat_":1}', '{"a": "cut', json.dumps(self.RECORD | {"u": None})])
        self.assertEqual((report["clicks"], report["heartbeats"], report["cut off"], report["without link, time, address or browser"]), (1, 1, 1, 1))
        made = json.loads(lines[0])
        self.assertEqual((made["ts"], made["link"], made["tags"], made["title"]), (1_354_554_652_000, "1.usa.gov/TEUy0r", ["www.nasa.gov", "nasa.gov"], "www.nasa.gov"))
        self.assertEqual((made["utm"]["source"], made["utm"]["medium"], made["utm"]["campaign"]), ("twitterfeed", "twitter", None))
        self.assertEqual((made["referrer"], made["device"], made["bot"]), (None, "mobile", None))
        self.assertEqual(lines[1], '{"a": "cut')

    def test_equal_lines_are_one_click_and_everything_is_repeatable(self):
        lines = [json.dumps(self.RECORD), json.dumps(self.RECORD), json.dumps(self.RECORD | {"t": 1_354_554_653})]
        report, made, files = self.converted(lines)
        self.assertEqual(report["distinct clicks"], 2)
        ids = [json.loads(line)["id"] for line in made]
        self.assertTrue(ids[0] == ids[1] != ids[2])
        self.assertEqual(files, self.converted(lines)[2])


if __name__ == "__main__":
    unittest.main()
