"""Holds records against the schemas: each must be valid exactly where its reader takes it.

    check.py SCHEMAS RECORDS

RECORDS has one JSON object per line: topic, record, taken (the reader's verdict), what (was done to it).
"""

import json
import pathlib
import sys
from collections import Counter

from jsonschema import Draft202012Validator


def main(schemas: pathlib.Path, records: pathlib.Path) -> int:
    validators = {}
    for path in sorted(schemas.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(schema)
        validators[path.stem] = Draft202012Validator(schema)
    seen, wrong = Counter(), []
    with records.open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            error = next(validators[entry["topic"]].iter_errors(entry["record"]), None)
            seen[entry["topic"], entry["taken"]] += 1
            if (error is None) != entry["taken"]:
                verdict = "takes" if entry["taken"] else "refuses"
                said = "valid" if error is None else error.message[:200]
                wrong.append(f"{entry['topic']}: {entry['what']}: the reader {verdict} it, the schema says: {said}")
    for line in wrong[:20]:
        print(line)
    missing = [topic for topic in validators if not seen[topic, True]]
    if missing:
        print("no record of", ", ".join(missing))
    taken, refused = (sum(n for (_, verdict), n in seen.items() if verdict is kind) for kind in (True, False))
    print(f"measured: {taken} good and {refused} bad records of {len(validators)} topics, {len(wrong)} judged otherwise")
    return 1 if wrong or missing or not refused else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
