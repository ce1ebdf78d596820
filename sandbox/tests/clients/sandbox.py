"""A sandbox in a process of its own, its control API, and its request log held to HubSpot's documents."""

import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import requests

import allowed
from openapi import Documents

PORTAL = "4242"
CLIENT_ID, SECRET, DEVELOPER_KEY, APP_ID = "clickline", "sandbox-secret", "sandbox-developer-key", 1000001

BINARY = Path(os.environ["CLICKLINE_SANDBOX"])
# None where the files are not: they are HubSpot's, and not part of this repository.
DOCUMENTS = Documents(os.environ["CLICKLINE_OPENAPI"]) if os.environ.get("CLICKLINE_OPENAPI") else None


class Sandbox:
    def __init__(self, *arguments):
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name, "requests.jsonl")
        command = [BINARY, "--listen", "127.0.0.1:0", "--request-log", self.log, "--burst-limit", "100000", "--search-limit", "100000"]
        self.process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
        self.url = re.search(r"http://\S+", self.process.stdout.readline()).group()
        self.session = requests.Session()

    def control(self, method, path, body=None):
        response = self.session.request(method, f"{self.url}/sandbox{path}", json=body if body is not None else {}, timeout=30)
        response.raise_for_status()
        return response.json() if response.content else None

    def refresh_token(self, scopes=None):
        return self.control("POST", f"/portals/{PORTAL}/refresh-token", {"scopes": scopes} if scopes else {})["refresh_token"]

    def snapshot(self):
        return self.control("GET", f"/portals/{PORTAL}")

    def stop(self):
        """Ends the sandbox; gives back what it logged."""
        self.process.terminate()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.session.close()
        lines = self.log.read_text().splitlines()
        self.folder.cleanup()
        return [json.loads(line) for line in lines]


def problems(log, requests=True, most=None):
    """Everything in a log that is not as the documents say and is not allowed; the operations that were called with success;
    and the reasons of `allowed` that were needed. Without `requests` only answers are looked at; of one
    operation and status no more than `most`."""
    found, called, needed, seen = {}, set(), set(), Counter()
    if DOCUMENTS is None:
        return [], called, needed

    def judge(entry, file, what, problem, body):
        call = f'{entry["method"]} {entry["path"]} {entry["status"]}'
        reason = allowed.reason(call, file, f"{what}: {problem}")
        if reason is None:
            found.setdefault(f"{call} ({file}): {what}: {problem}\n    {(body or '')[:600]}")
        else:
            needed.add(reason)

    for entry in log:
        # What a scripted fault sends is not meant to be as the documents say.
        if entry["fault"]:
            continue
        operations = DOCUMENTS.find(entry["method"], entry["path"])
        if not operations:
            judge(entry, "no file", "call", "described nowhere", entry["response_body"])
        for operation in operations:
            seen[operation, entry["status"]] += 1
            if most and seen[operation, entry["status"]] > most:
                continue
            for problem in DOCUMENTS.check_answer(operation, entry["status"], entry["response_body"]):
                judge(entry, operation.file, "answer", problem, entry["response_body"])
            if entry["status"] < 300:
                called.add(str(operation))
                for problem in DOCUMENTS.check_request(operation, entry["query"], entry["request_body"]) if requests else []:
                    judge(entry, operation.file, "request", problem, entry["request_body"])
    return list(found), called, needed
