"""Holds the manifests of examples/ against the schemas of Kubernetes, and what the tests run against what users read.

The cluster tests apply examples/test, so kinds that Kubernetes does not define (routes) are held there by the real ones.
"""

import yaml

import rendering

EXAMPLES = rendering.ROOT / "examples"


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def problems():
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        if path.name == "kustomization.yaml":
            continue
        known = [d for d in documents(path) if not d["apiVersion"].startswith("gateway.networking.k8s.io/")]
        yield from (f"{path.relative_to(rendering.ROOT)}: {problem}" for problem in rendering.invalid(known))
    app = documents(EXAMPLES / "bookinfo" / "bookinfo.yaml")
    deployments = {d["metadata"]["name"] for d in app if d["kind"] == "Deployment"}
    patched = {p["target"]["name"] for p in documents(EXAMPLES / "test" / "kustomization.yaml")[0]["patches"]}
    if deployments != patched:
        yield f"examples/test patches {sorted(patched)}, but there are {sorted(deployments)}"
    services = {d["metadata"]["name"] for d in app if d["kind"] == "Service"}
    for path in sorted((EXAMPLES / "bookinfo" / "canary").glob("*.yaml")):
        (route,) = documents(path)
        (rule,) = route["spec"]["rules"]
        weights = "-".join(str(backend["weight"]) for backend in rule["backendRefs"])
        if weights != path.stem:
            yield f"{path.name} has weights {weights}"
        missing = {r["name"] for r in rule["backendRefs"] + route["spec"]["parentRefs"]} - services
        if missing:
            yield f"{path.name} names Services that are not there: {sorted(missing)}"
