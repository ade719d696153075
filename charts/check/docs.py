"""Holds the tables of docs/reference/ that no test of the programs holds against their sources, and the guides' links."""

import re

import rendering

DOCS = rendering.ROOT / "docs"


def problems():
    yield from annotations()
    yield from ports()
    for path in [*DOCS.glob("guides/*.md"), *DOCS.glob("reference/*.md"), rendering.ROOT / "examples" / "README.md"]:
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
            if not (path.parent / link).exists():
                yield f"{path.relative_to(rendering.ROOT)} links to {link}, which is not there"


def annotations():
    """`KNOWN` of inject/annotations.rs: key, what it takes, what it does."""
    source = rendering.ROOT / "control-plane/src/inject/annotations.rs"
    if not source.exists():
        return
    text = source.read_text()
    keys = dict(re.findall(r'const (\w+): &str = "(weft\.dev/[\w-]+)"', text))
    known = text.split("pub const KNOWN", 1)[1].split("];", 1)[0]
    rows = re.findall(r'\((\w+), "([^"]+)", "([^"]+)"\)', known)
    wanted = [f"| `{keys[name]}` | {takes} | {what} |" for name, takes, what in rows]
    path = DOCS / "reference" / "annotations.md"
    section = path.read_text().split("## Annotations", 1)[1]
    given = [line for line in section.splitlines() if line.startswith("| `weft.dev/")]
    yield from (f"annotations.md lacks: {row}" for row in wanted if row not in given)
    yield from (f"annotations.md has, and the code has not: {row}" for row in given if row not in wanted)


def ports():
    """The ports of proto/src/lib.rs and of the chart."""
    module = (rendering.ROOT / "proto/src/lib.rs").read_text().split("pub mod ports", 1)[1].split("\n}", 1)[0]
    wanted = set(re.findall(r"pub const \w+: u16 = (\d+);", module))
    deployment = (rendering.CHART / "templates" / "deployment.yaml").read_text()
    wanted |= set(re.findall(r"containerPort: (\d+)", deployment))
    given = set(re.findall(r"^\| (\d{5}) \|", (DOCS / "reference" / "ports.md").read_text(), re.MULTILINE))
    yield from (f"ports.md lacks {port}" for port in sorted(wanted - given))
    yield from (f"ports.md has {port}, and nothing else has" for port in sorted(given - wanted))
