"""Holds the values against the schema, the templates and the reference.

- Each value of values.yaml is in the schema, each of the schema in values.yaml, and every object of the schema says whether it
  takes others.
- Each value changes something: every one in turn is taken away from the rendering in which all are off their defaults. So a
  value that no template uses is found whatever way templates pass it around.
- Each `.Values.a.b` of a template is there.
- docs/reference/values.md is what the comments of values.yaml say.
"""

import copy
import json
import re

import yaml

import rendering

VALUES = rendering.CHART / "values.yaml"
SCHEMA = rendering.CHART / "values.schema.json"
REFERENCE = rendering.ROOT / "docs" / "reference" / "values.md"
# Objects as users or Kubernetes define them: nothing below them is ours.
OPEN = {"texts", "kubernetesObject"}
COUNT = 0

HEAD = """# Values of the chart

What `helm install weft charts/weft --values FILE` takes, beside the defaults. Anything else is refused, by name. Made of the
comments in [values.yaml](../../charts/weft/values.yaml) by `charts/check.sh target --write`, and held equal to them.
"""


def leaves(value, schema, path=()):
    """Paths and defaults of everything that can be set on its own."""
    schema = resolved(schema)
    if isinstance(value, dict) and schema.get("properties") and not path[-1:] == ("resources",):
        for key, below in value.items():
            yield from leaves(below, schema["properties"].get(key, {}), (*path, key))
    else:
        yield path, value


def resolved(schema):
    whole = json.loads(SCHEMA.read_text())
    while "$ref" in schema:
        schema = whole["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def problems(chart):
    global COUNT
    defaults, schema = yaml.safe_load(VALUES.read_text()), json.loads(SCHEMA.read_text())
    yield from beside(defaults, schema, ())
    yield from closed(schema)
    all_leaves = list(leaves(defaults, schema))
    COUNT = len(all_leaves)
    yield from unused(chart, all_leaves)
    yield from missing(defaults)
    if not REFERENCE.exists() or REFERENCE.read_text() != reference():
        yield "docs/reference/values.md is not what values.yaml says: run charts/check.sh target --write"


def beside(value, schema, path):
    """Differences between values.yaml and the schema."""
    schema = resolved(schema)
    if "properties" not in schema or path[-1:] == ("resources",):
        return
    known = {key for key in schema["properties"] if (path, key) != ((), "global")}
    for key in value.keys() - known:
        yield f"{'.'.join((*path, key))} is not in the schema"
    for key in known - value.keys():
        yield f"{'.'.join((*path, key))} is not in values.yaml"
    for key in known & value.keys():
        yield from beside(value[key], schema["properties"][key], (*path, key))


def closed(schema, where="the schema", name=""):
    """Objects of the schema that do not say what they take, or take anything without being known to."""
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object":
        others = schema.get("additionalProperties")
        if others is None:
            yield f"{where} does not say whether it takes other properties"
        elif others is not False and name not in OPEN | {"global"}:
            yield f"{where} takes other properties"
    for key, below in schema.items():
        if isinstance(below, dict):
            yield from closed(below, f"{where}.{key}", key)
        elif isinstance(below, list):
            for each in below:
                yield from closed(each, f"{where}.{key}")


def unused(chart, all_leaves):
    full = rendering.render_all(chart, rendering.EVERYTHING)
    for path, default in all_leaves:
        inner = rendering.EVERYTHING
        try:
            for key in path:
                inner = inner[key]
        except KeyError:
            yield f"{'.'.join(path)} is not in the rendering with everything"
            continue
        # What is true either way, or hidden by another, is compared with that other away.
        without, base = copy.deepcopy(rendering.EVERYTHING), full
        if hider := HIDDEN.get(path):
            put(without, hider, "")
            base = rendering.render_all(chart, without)
        other = OTHERWISE.get(path, default)
        if other == inner:
            yield f"{'.'.join(path)} is as by default in the rendering with everything"
            continue
        put(without, path, other)
        if rendering.render_all(chart, without) == base:
            yield f"{'.'.join(path)} changes nothing: no template uses it"


# Values that another one replaces.
HIDDEN = {
    ("image", "repository"): ("controlPlane", "image"),
    ("image", "tag"): ("controlPlane", "image"),
}
# Where the default is what the rendering with everything has.
OTHERWISE = {("controlPlane", "podDisruptionBudget"): False}


def put(values, path, value):
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value


def missing(defaults):
    """`.Values.x.y` of templates that values.yaml does not have."""
    for template in sorted((rendering.CHART / "templates").rglob("*")):
        if template.is_file():
            for used in re.findall(r"\.Values((?:\.[A-Za-z]\w*)+)", template.read_text()):
                value = defaults
                for key in used.split(".")[1:]:
                    value = value.get(key) if isinstance(value, dict) else None
                    if value is None:
                        yield f"{template.name} uses .Values{used}, which is not in values.yaml"
                        break


def documented():
    """(path, default, comment) of each value, in the order of the file, by the comments above them."""
    comment, path = [], []
    defaults, schema = yaml.safe_load(VALUES.read_text()), json.loads(SCHEMA.read_text())
    of = dict(leaves(defaults, schema))
    for line in VALUES.read_text().splitlines():
        if match := re.match(r"( *)# ?(.*)", line):
            comment.append(match[2])
        elif match := re.match(r"( *)([A-Za-z]\w*):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if tuple(path) in of:
                yield tuple(path), of[tuple(path)], " ".join(comment)
            comment = []
        else:
            comment = []


def reference():
    text, section = HEAD, None
    for path, default, comment in documented():
        first = path[0] if len(path) > 1 else ""
        if first != section:
            section = first
            text += f"\n## {section or 'The whole'}\n\n| value | default | what |\n|---|---|---|\n"
        shown = json.dumps(default) if default not in ("", [], {}) else ""
        shown = f"`{shown}`" if shown else ""
        if not comment:
            raise SystemExit(f"values.yaml: {'.'.join(path)} has no comment")
        text += f"| `{'.'.join(path)}` | {shown.replace('|', chr(92) + '|')} | {comment.replace('|', chr(92) + '|')} |\n"
    return text


def write_reference():
    REFERENCE.write_text(reference())
