"""Validates documents against JSON Schemas, for the tests.

Reads a JSON list of {"schema", "instance"} from stdin and writes a JSON list with the errors of each. A schema that is not a
JSON Schema (draft 7) ends the program.
"""

import json
import sys

from jsonschema import Draft7Validator

validators = {}
results = []
for pair in json.load(sys.stdin):
    key = json.dumps(pair["schema"])
    if key not in validators:
        Draft7Validator.check_schema(pair["schema"])
        validators[key] = Draft7Validator(pair["schema"])
    errors = validators[key].iter_errors(pair["instance"])
    results.append([f"{error.message[:400]} at /{'/'.join(map(str, error.absolute_path))}" for error in errors])
json.dump(results, sys.stdout)
