"""Holds all that the sandbox does to HubSpot's OpenAPI files: answers, requests, scopes, limits, and that nothing is left out."""

import json
import os
import unittest
from pathlib import Path

import requests

import allowed
from calls import everything
from sandbox import CLIENT_ID, DOCUMENTS, SECRET, Sandbox, problems

# How many exchanges of one kind (operation and status) in one log are looked at.
MOST = 300
# Every scope that an account can grant here.
SCOPES = (
    "oauth timeline forms analytics.behavioral_events.send behavioral_events.event_definitions.read_write "
    "crm.objects.contacts.read crm.objects.contacts.write crm.schemas.contacts.read crm.schemas.contacts.write "
    "crm.objects.deals.read crm.objects.deals.write crm.schemas.deals.read crm.schemas.deals.write"
)


class Again:
    """Repeats calls of a log on an empty sandbox, with tokens of other scopes."""

    def __init__(self):
        self.sandbox, self.session = Sandbox(), requests.Session()

    def __call__(self, entry, scopes):
        form = {"client_id": CLIENT_ID, "client_secret": SECRET, "grant_type": "refresh_token", "refresh_token": self.sandbox.refresh_token(sorted(scopes))}
        token = self.session.post(f"{self.sandbox.url}/oauth/v3/token", data=form, timeout=30).json()["access_token"]
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        url = f"{self.sandbox.url}{entry['path']}?{entry['query'] or ''}"
        answer = self.session.request(entry["method"], url, headers=headers, data=entry["request_body"], timeout=30)
        if answer.status_code == 401:
            raise AssertionError(f"{entry['method']} {entry['path']}: the token is not believed")
        return answer

    def stop(self):
        self.session.close()
        self.sandbox.stop()


@unittest.skipUnless(DOCUMENTS, "CLICKLINE_OPENAPI names no folder with HubSpot's OpenAPI files")
class Documents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        sandbox = Sandbox()
        try:
            everything(sandbox)
        finally:
            cls.log = sandbox.stop()
        cls.found, cls.called, cls.needed = problems(cls.log)

    def test_every_answer_and_every_request_is_as_the_files_say(self):
        self.assertGreater(len(self.log), 600)
        self.assertFalse(self.found, "\n" + "\n".join(self.found))

    def test_nothing_is_allowed_that_need_not_be(self):
        self.assertEqual(set(), set(allowed.reasons()) - self.needed)

    def test_nothing_of_the_files_is_left_out_without_a_reason(self):
        everything = {str(o) for o in DOCUMENTS.operations}
        self.assertEqual(set(), everything - self.called - set(allowed.NOT_CALLED))
        self.assertEqual(set(), set(allowed.NOT_CALLED) & self.called, "said to be left out, but served")

    def calls(self):
        """One call of every operation with an account's token: the operation, the types of records it is about, the call."""
        calls = {}
        for entry in self.log:
            account = entry["token"] and not entry["path"].startswith("/webhooks-journal/")
            for operation in DOCUMENTS.find(entry["method"], entry["path"]) if account and entry["status"] < 300 else []:
                kinds = allowed.kinds(entry["path"])
                calls.setdefault((str(operation), kinds), (operation, kinds, entry))
        return calls.values()

    def test_scopes_are_those_of_the_files(self):
        """Each call with a token for each scope that is enough, and with one that has all others."""
        again, wrong, checked, known = Again(), [], 0, set(SCOPES.split())
        try:
            for operation, kinds, entry in self.calls():
                enough = {s for s in operation.scopes() if s in known and allowed.about(s, kinds)}
                if not enough:
                    continue
                checked += 1
                wrong += [f"{operation} {kinds}: {scope} is enough" for scope in enough if again(entry, {scope}).status_code == 403]
                if again(entry, known - enough).status_code != 403:
                    wrong.append(f"{operation} {kinds}: only one of {sorted(enough)} is enough")
        finally:
            again.stop()
        self.assertGreater(checked, 120)
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_rate_limits_are_those_of_the_files(self):
        again, wrong = Again(), []
        try:
            for operation, _, entry in self.calls():
                limited = "x-hubspot-ratelimit-max" in again(entry, set(SCOPES.split())).headers
                if limited != operation.rate_limited():
                    wrong.append(f"{operation}: {'counts' if limited else 'does not count'}")
        finally:
            again.stop()
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_what_other_tests_exchanged_with_sandboxes(self):
        folder = os.environ.get("CLICKLINE_SANDBOX_LOGS")
        if not folder:
            self.skipTest("CLICKLINE_SANDBOX_LOGS names no folder")
        # The sandbox's own tests leave out what HubSpot does not need, and send what it refuses: their requests are not looked
        # at. Those of all other programs are: what they send is meant for HubSpot.
        own = {test.stem for test in Path(__file__).parent.parent.glob("*.rs")}
        programs, found = set(), []
        for file in sorted(Path(folder).glob("*.jsonl")):
            program = file.name.split("-")[0]
            programs.add(program)
            # A line without an end is that of a process that was killed.
            lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            found += problems(map(json.loads, lines), requests=program not in own, most=MOST)[0]
        self.assertTrue(programs, f"no log in {folder}")
        self.assertTrue(own <= programs, f"no log of {own - programs}")
        self.assertFalse(found, "\n" + "\n".join(found))


if __name__ == "__main__":
    unittest.main()
