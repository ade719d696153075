"""`charts/check.sh`: all that is wrong with the chart, the examples, the guides and the reference, said at once."""

import sys
import time

import claims
import docs
import examples
import helm_python
import rendering
import values


def told(found):
    """What a check found; one that cannot go on because the chart does not even render found that."""
    try:
        yield from found
    except helm_python.HelmError as error:
        yield str(error)


def main():
    began = time.monotonic()
    chart = rendering.load()
    if "--write" in sys.argv[1:]:
        values.write_reference()
    checks = {
        "lint": rendering.lint(),
        "renderings": rendering.matrix(chart),
        "refusals": rendering.refusals(chart),
        "values": values.problems(chart),
        "claims": claims.problems(chart),
        "examples": examples.problems(),
        "docs": docs.problems(),
    }
    problems = [f"{name}: {problem}" for name, found in checks.items() for problem in told(found)]
    for problem in problems:
        print(problem, file=sys.stderr)
    count = sum(len(rendering.objects(chart, each)) for each in rendering.MATRIX.values())
    print(
        f"chart: {len(rendering.MATRIX)} renderings, {count} objects, Kubernetes {' and '.join(rendering.KUBERNETES)}, "
        f"{values.COUNT} values, {claims.COUNT} claims, {time.monotonic() - began:.0f} s: {len(problems)} problems"
    )
    return 1 if problems else 0


sys.exit(main())
