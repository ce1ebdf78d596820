"""Checks requests and answers against HubSpot's OpenAPI files.

A call is looked up by method and path template in every file; the templates with the fewest parameters describe it. Bodies
are checked as JSON Schema, and more strictly than that: a field that the files do not have is an error, too.
"""

import json
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl
from uuid import UUID

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

METHODS = ("get", "post", "put", "patch", "delete")
# Paths that mean the same: (what is called, what the files have).
ALIASES = [
    (r"^(/crm/v3/objects|/crm/objects/2026-03)/deals(?=/|$)", r"\1/0-3"),
    (r"^(/crm/v3/objects|/crm/objects/2026-03)/0-1(?=/|$)", r"\1/contacts"),
    (r"^/crm/v3/timeline/", "/integrators/timeline/v3/"),
    (r"^/integrators/timeline/v4/", "/integrators/timeline/2026-03/"),
    # Definitions are described for 2026-09 alone.
    (r"^/events/(v3|2026-03)/event-definitions", "/events/custom/2026-09/event-definitions"),
]

formats = FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def _date_time(value):
    if not isinstance(value, str):
        return True
    # A time without an offset is no date-time (RFC 3339).
    return datetime.fromisoformat(value).tzinfo is not None


@formats.checks("uuid", raises=ValueError)
def _uuid(value):
    return not isinstance(value, str) or bool(UUID(value))


@formats.checks("int32")
def _int32(value):
    return not isinstance(value, int) or -(2**31) <= value < 2**31


@formats.checks("int64")
def _int64(value):
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _strict(node):
    """A schema of OpenAPI 3.0 as JSON Schema in which objects have no other fields than those described."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {name: _strict(value) for name, value in node.items() if name not in ("example", "xml", "discriminator")}
    if node.get("nullable") and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    # `"properties": {}` stands for "any object".
    fields = node.get("properties")
    if node.get("type") == "object" and isinstance(fields, dict) and fields and "additionalProperties" not in node:
        schema["additionalProperties"] = False
    return schema


class Operation:
    def __init__(self, file, method, template, spec):
        self.file, self.method, self.template, self.spec = file, method, template, spec
        self.pattern = re.compile("^" + re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)) + "$")
        self.parameters = template.count("{")

    def __str__(self):
        return f"{self.method} {self.template}"

    def scopes(self):
        """The scopes of an account's token of which any one is enough, as far as they are about contacts and deals."""
        found = {scope for way in self.spec.get("security", []) for scope in way.get("oauth2", [])}
        return {scope for scope in found if not re.search("sensitive|legacyOnly", scope)}

    def rate_limited(self):
        """Whether a call counts against the limit of ten seconds."""
        return "ten-secondly" not in self.spec.get("x-hubspot-rate-limit-exemptions", [])

    def parameter_names(self):
        return {p["name"] for p in self.spec.get("parameters", []) if p.get("in") == "query"}

    def required_parameters(self):
        return {p["name"] for p in self.spec.get("parameters", []) if p.get("in") == "query" and p.get("required")}


class Documents:
    """All OpenAPI files of a folder."""

    def __init__(self, folder):
        self.operations, self.responses, resources = [], {}, []
        for path in sorted(Path(folder).glob("*.json")):
            document = json.loads(path.read_text())
            for template, operations in document["paths"].items():
                self.operations += [Operation(path.name, m.upper(), template, o) for m, o in operations.items() if m in METHODS]
            parts = document["components"]
            schemas = {"components": {"schemas": _strict(parts["schemas"])}}
            resources.append((path.name, Resource(contents=schemas, specification=DRAFT202012)))
            self.responses[path.name] = parts.get("responses", {})
        if not self.operations:
            raise FileNotFoundError(f"there is no OpenAPI file in {folder}")
        self.registry = Registry().with_resources(resources)

    def find(self, method, path):
        """The operations that describe a call."""
        for called, described in ALIASES:
            path = re.sub(called, described, path)
        found = [o for o in self.operations if o.method == method and o.pattern.match(path)]
        fewest = min((o.parameters for o in found), default=0)
        return [o for o in found if o.parameters == fewest]

    @cache
    def _validator(self, file, schema):
        schema = _strict(json.loads(schema))
        local = json.loads(json.dumps(schema).replace('"#/', f'"{file}#/'))
        return Draft202012Validator(local, registry=self.registry, format_checker=formats)

    def _problems(self, operation, content, body):
        """Every way in which a body is not what the content's schema says."""
        schema = next(iter(content.values())).get("schema")
        if schema is None:
            return []
        errors = self._validator(operation.file, json.dumps(schema)).iter_errors(body)
        return [f"{error.json_path}: {error.message[:300]}" for error in errors]

    def check_answer(self, operation, status, body):
        """What is wrong with an answer. `body` is text, or none when there was none."""
        described = operation.spec["responses"].get(str(status))
        if described is None and status >= 400:
            described = operation.spec["responses"].get("default")
        if described is None:
            return ["the status is not described"]
        if "$ref" in described:
            described = self.responses[operation.file][described["$ref"].rsplit("/", 1)[1]]
        content = described.get("content")
        if not content:
            return ["a body where none is described"] if body and status < 400 else []
        if body is None:
            return ["no body where one is described"]
        try:
            return self._problems(operation, content, json.loads(body))
        except json.JSONDecodeError as error:
            return [f"the body is no JSON: {error}"]

    def check_request(self, operation, query, body):
        """What is wrong with a request that was answered with success."""
        names = {name for name, _ in parse_qsl(query or "", keep_blank_values=True)}
        problems = [f"unknown parameter {name}" for name in sorted(names - operation.parameter_names())]
        problems += [f"missing parameter {name}" for name in sorted(operation.required_parameters() - names)]
        described = operation.spec.get("requestBody")
        if described is None:
            return problems + (["a body where none is described"] if body else [])
        if body is None:
            return problems + (["no body where one is required"] if described.get("required") else [])
        content = described["content"]
        if "application/x-www-form-urlencoded" in content:
            return problems + self._problems(operation, content, dict(parse_qsl(body)))
        try:
            return problems + self._problems(operation, content, json.loads(body))
        except json.JSONDecodeError as error:
            return problems + [f"the body is no JSON: {error}"]
