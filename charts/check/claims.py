"""What the chart promises, as claims about what it renders. Each returns what contradicts it."""

import itertools
import pathlib
import re
import shutil
import tempfile
import tomllib

import helm_python
import yaml

import rendering
from rendering import called, objects

COUNT = 0
CLAIMS = []
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def claim(function):
    CLAIMS.append(function)
    return function


def problems(chart):
    global COUNT
    COUNT = len(CLAIMS)
    for each in CLAIMS:
        for problem in each(chart):
            yield f"{each.__name__.replace('_', ' ')}: {problem}"


def everywhere(chart):
    for name, values in rendering.MATRIX.items():
        for thing in objects(chart, values):
            yield name, values, thing


def pods(chart):
    """Each pod's specification that the chart renders."""
    for name, values, thing in everywhere(chart):
        if thing["kind"] in ("Deployment", "Job"):
            yield name, thing, thing["spec"]["template"]
        elif thing["kind"] == "Pod":
            yield name, thing, thing


def the(chart, values, kind):
    """The one object of a kind that is no hook's."""
    found = [t for t in objects(chart, values) if t["kind"] == kind and "helm.sh/hook" not in t["metadata"].get("annotations", {})]
    assert len(found) == 1, (kind, [called(t) for t in found])
    return found[0]


@claim
def versions_are_the_workspace_s(_chart):
    version = tomllib.loads((rendering.ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    chart = yaml.safe_load((rendering.CHART / "Chart.yaml").read_text())
    if (chart["version"], chart["appVersion"]) != (version, version):
        yield f"the workspace is {version}, the chart {chart['version']} of {chart['appVersion']}"


@claim
def pods_satisfy_the_restricted_standard(chart):
    for name, thing, pod in pods(chart):
        spec = pod["spec"]
        if not spec["securityContext"]["runAsNonRoot"] or spec["securityContext"]["seccompProfile"] != {"type": "RuntimeDefault"}:
            yield f"{name}: {called(thing)}"
        for container in spec["containers"]:
            if container["securityContext"] != RESTRICTED:
                yield f"{name}: {called(thing)}, container {container['name']}"
            if not container["resources"].get("requests") or "memory" not in container["resources"].get("limits", {}):
                yield f"{name}: {called(thing)} has no requests, or no memory limit"


@claim
def every_object_of_a_namespace_says_which(chart):
    cluster = {"Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration", "CustomResourceDefinition"}
    cluster |= rendering.SINCE.keys()
    for name, values, thing in everywhere(chart):
        hook = thing["metadata"].get("annotations", {}).get("helm.sh/hook")
        own = values.get("helmTest", {}).get("namespace", "weft-helm-test")
        own += f"-{values['revision']}" if values.get("revision") else ""
        wanted = {None} if thing["kind"] in cluster else {"weft-system", own} if hook == "test" else {"weft-system"}
        if thing["metadata"].get("namespace") not in wanted:
            yield f"{name}: {called(thing)}"


@claim
def names_are_those_of_the_other_parts(chart):
    """What the programs look for: names in their sources are the names rendered."""
    constants = {
        "control-plane/src/identity/cluster.rs": (r'pub const SECRET: &str = "([^"]+)"', "weft-ca"),
        "control-plane/src/identity/roots.rs": (r'pub const ROOTS_CONFIG_MAP: &str = "([^"]+)"', "weft-ca-roots"),
        "proto/src/lib.rs": (r"pub const DISCOVERY: u16 = (\d+)", "15012"),
    }
    text = "\n".join(rendering.render_all(chart, {}).values())
    for path, (pattern, here) in constants.items():
        found = re.search(pattern, (rendering.ROOT / path).read_text())
        if not found or found[1] != here or here not in text:
            yield f"{path} says {found and found[1]}, the chart {here}"
    for revision, suffix in (("", ""), ("canary", "-canary"), ("1", "-1")):
        things = {(t["kind"], t["metadata"]["name"]) for t in objects(chart, {"revision": revision})}
        for kind, name in [
            ("Deployment", "weft-control-plane"),
            ("Service", "weft-control-plane"),
            ("ServiceAccount", "weft-control-plane"),
            ("ConfigMap", "weft-injection"),
            ("MutatingWebhookConfiguration", "weft-injector"),
        ]:
            if (kind, name + suffix) not in things:
                yield f"no {kind} {name}{suffix}"


@claim
def two_revisions_share_no_object(chart):
    """But for kinds, which are the first one's (kinds.yaml): whose they are is asked of the cluster, and there is none here."""
    of = lambda revision: [t for t in objects(chart, {"revision": revision}) if t["kind"] != "CustomResourceDefinition"]
    names = [{called(t) for t in of(revision)} for revision in ("", "canary", "next")]
    for one, other in itertools.combinations(names, 2):
        yield from sorted(one & other)
    selectors = [the(chart, {"revision": r}, "Service")["spec"]["selector"] for r in ("", "canary")]
    if selectors[0] == selectors[1]:
        yield "their Services select the same pods"


@claim
def services_budgets_and_policies_select_the_control_plane(chart):
    for name, values in rendering.MATRIX.items():
        things = objects(chart, values)
        deployment = the(chart, values, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        for thing in things:
            hook = "helm.sh/hook" in thing["metadata"].get("annotations", {})
            spec = thing.get("spec", {})
            selector = {
                "Service": lambda: spec["selector"],
                "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
                "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
                "Deployment": lambda: spec["selector"]["matchLabels"],
            }.get(thing["kind"])
            if selector and not hook and not selector().items() <= labels.items():
                yield f"{name}: {called(thing)}"
        ports = {p["name"] for p in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
        if {p["targetPort"] for p in the(chart, values, "Service")["spec"]["ports"]} - ports:
            yield f"{name}: the Service has a port that the pods do not name"
        # Otherwise the API server refuses the Deployment.
        if values.get("controlPlane", {}).get("podLabels", {}).items() - labels.items():
            yield f"{name}: podLabels are not there"


@claim
def an_upgrade_never_waits_for_a_node(chart):
    """maxUnavailable 0 with a demand for nodes of their own would, where nodes are as many as replicas."""
    for name, values in rendering.MATRIX.items():
        spec = the(chart, values, "Deployment")["spec"]
        if spec["strategy"]["rollingUpdate"] != {"maxUnavailable": 0, "maxSurge": 1}:
            yield f"{name}: strategy"
        if "requiredDuringSchedulingIgnoredDuringExecution" in spec["template"]["spec"]["affinity"].get("podAntiAffinity", {}):
            yield f"{name}: anti-affinity"
        if any(c["whenUnsatisfiable"] != "ScheduleAnyway" for c in spec["template"]["spec"]["topologySpreadConstraints"]):
            yield f"{name}: topology spread"


@claim
def the_certificate_of_the_webhook_is_not_rendered(chart):
    for name, _, thing in everywhere(chart):
        if thing["kind"] == "MutatingWebhookConfiguration" and any("caBundle" in w["clientConfig"] for w in thing["webhooks"]):
            yield name
        if thing["kind"] in ("Secret", "CertificateSigningRequest"):
            yield f"{name}: {called(thing)}"


# Of a webhook, all that Kubernetes knows but its name, by which two are the same one, and the certificate to trust.
WEBHOOK = "rules failurePolicy matchPolicy namespaceSelector objectSelector sideEffects timeoutSeconds admissionReviewVersions"
WEBHOOK += " reinvocationPolicy matchConditions clientConfig.service clientConfig.url"


@claim
def the_control_plane_may_change_only_the_certificate_of_its_webhook(chart):
    """The policy is about its account and its configuration, names every other field, and is bound, where Kubernetes knows such."""
    for revision, suffix in (("", ""), ("canary", "-canary")):
        values = {"revision": revision}
        policy = the(chart, values, "ValidatingAdmissionPolicy")
        binding, hook = the(chart, values, "ValidatingAdmissionPolicyBinding"), the(chart, values, "MutatingWebhookConfiguration")
        account = f"system:serviceaccount:weft-system:weft-control-plane{suffix}"
        spec, text = policy["spec"], " ".join(v["expression"] for v in policy["spec"]["validations"])
        if binding["spec"] != {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}:
            yield f"revision `{revision}`: the binding is {binding['spec']}"
        rule = spec["matchConstraints"]["resourceRules"]
        if [r["resourceNames"] for r in rule] != [[hook["metadata"]["name"]]] or rule[0]["operations"] != ["UPDATE"]:
            yield f"revision `{revision}`: it is about {rule}"
        if [c["expression"] for c in spec["matchConditions"]] != [f"request.userInfo.username == '{account}'"]:
            yield f"revision `{revision}`: it is for {spec['matchConditions']}"
        for field in WEBHOOK.split():
            *above, last = field.split(".")
            of = lambda side: ".".join([side, *above, f"?{last}"])
            if f"{of('new')} == {of('old')}" not in text:
                yield f"{field} may be changed"
        if "caBundle" in text or spec["failurePolicy"] != "Fail":
            yield "the certificate may not be changed, or all may where the expression fails"
        unknown = {key for webhook in hook["webhooks"] for key in webhook} - {"name", "clientConfig"} - set(WEBHOOK.split())
        yield from (f"{field} of the webhook is not in the policy" for field in sorted(unknown))
    off = {thing["kind"] for thing in objects(chart, {"injection": {"protectWebhook": False}})}
    yield from (f"{kind} is there though nobody wants it" for kind in off & rendering.SINCE.keys())
    for version, wanted in (("v1.27.16", set()), ("v1.29.14", set()), ("v1.30.0", rendering.SINCE.keys()), ("v1.36.1-eks-1", rendering.SINCE.keys())):
        with tempfile.TemporaryDirectory() as folder:
            copied = f"{folder}/weft"
            shutil.copytree(rendering.CHART, copied)
            template = pathlib.Path(copied, "templates", "webhook-protection.yaml")
            asked = ".Capabilities.KubeVersion.Version"
            text = template.read_text()
            if text.count(asked) != 1:
                yield f"it asks for the version {text.count(asked)} times"
            template.write_text(text.replace(asked, f'"{version}"'))
            there = {thing["kind"] for thing in objects(helm_python.Chart.load(copied), {})} & rendering.SINCE.keys()
        if there != wanted:
            yield f"Kubernetes {version} gets {sorted(there)}"


@claim
def access_names_what_it_may_write(chart):
    """No wildcards; and what is written or held secret is named, but for `create`, which Kubernetes knows no name for."""
    unnamed = {"tokenreviews": {"create"}, "leases": {"create"}, "secrets": {"create"}}
    for name, _, thing in everywhere(chart):
        for rule in thing.get("rules", []) if thing["kind"] in ("Role", "ClusterRole") else []:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "*" in words:
                yield f"{name}: {called(thing)}: {rule}"
            if rule.get("resourceNames"):
                continue
            for resource in rule["resources"]:
                may = {"get", "list", "watch"} if resource not in ("secrets", "configmaps") else set()
                # By name, without a list to learn names from: what a BackendTLSPolicy says.
                may |= {"get"} if resource == "configmaps" else set()
                may |= {"patch", "update"} if resource.endswith("/status") else unnamed.get(resource, set())
                if set(rule["verbs"]) - may:
                    yield f"{name}: {called(thing)}: {sorted(set(rule['verbs']) - may)} of any {resource}"


@claim
def cleaning_up_may_delete_what_was_made_and_no_more(chart):
    """What control-plane/src/cleanup.rs asks of the API server, request by request."""
    for revision, suffix in (("", ""), ("canary", "-canary")):
        wanted = {
            ("ClusterRole", "mutatingwebhookconfigurations", "list", ""),
            ("ClusterRole", "mutatingwebhookconfigurations", "delete", f"weft-injector{suffix}"),
            ("ClusterRole", "configmaps", "list", "weft-ca-roots"),
            ("ClusterRole", "configmaps", "delete", "weft-ca-roots"),
            ("Role", "leases", "delete", f"weft-control-plane{suffix}"),
            ("Role", "secrets", "delete", f"weft-webhook{suffix}"),
            ("Role", "secrets", "delete", "weft-ca"),
        }
        given = {
            (thing["kind"], resource, verb, name)
            for thing in objects(chart, {"revision": revision})
            if thing["kind"] in ("Role", "ClusterRole") and events(thing)
            for rule in thing["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames", [""])
        }
        yield from (f"revision `{revision}`: lacks {rule}" for rule in sorted(wanted - given))
        yield from (f"revision `{revision}`: need not {rule}" for rule in sorted(given - wanted))
    jobs = {tuple(events(t)): t["spec"]["template"]["spec"]["containers"][0]["args"] for t in objects(chart, {}) if t["kind"] == "Job"}
    if jobs.get(("pre-delete",)) != ["cleanup", "--webhook-only"] or jobs.get(("post-delete",)) != ["cleanup"]:
        yield f"the Jobs are {jobs}"


@claim
def hooks_leave_nothing(chart):
    """Helm deletes those that succeed and begins by deleting those that did not; a Job that failed goes by itself."""
    for name, _, thing in everywhere(chart):
        if not events(thing):
            continue
        policy = thing["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        if policy != "before-hook-creation,hook-succeeded":
            yield f"{name}: {called(thing)}: {policy}"
        if thing["kind"] == "Job" and not {"ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit"} <= thing["spec"].keys():
            yield f"{name}: {called(thing)} may stay"
        # Helm shows no log of it, or waits for its end.
        if thing["kind"] == "Pod":
            yield f"{name}: {called(thing)} is no Job"


def events(thing):
    hook = thing["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    return hook.split(",") if hook else []


@claim
def every_template_renders(chart):
    """Otherwise what is in it was not looked at here."""
    rendered = [rendering.render_all(chart, values) for values in rendering.MATRIX.values()]
    for path in sorted(rendering.CHART.glob("templates/**/*.*")):
        name = f"{rendering.CHART.name}/{path.relative_to(rendering.CHART)}"
        # Definitions, and kinds, which the last claim looks at.
        if path.name not in ("_names.tpl", "kinds.yaml") and not any(each.get(name, "").strip() for each in rendered):
            yield name


@claim
def notes_say_what_is_next(chart):
    for name, values in rendering.MATRIX.items():
        notes = rendering.render_all(chart, values)["weft/templates/NOTES.txt"]
        label = f"weft.dev/revision={values['revision']}" if values.get("revision") else "weft.dev/inject=enabled"
        for command in (f"kubectl label namespace shop {label}", "rollout restart deployment", "helm test weft --namespace weft-system"):
            if command not in notes:
                yield f"{name}: {command}"


@claim
def what_is_watched_may_be(chart):
    """The table of source/kubernetes/kinds.rs and the kind of status/kubernetes/mesh.rs, no less and no more."""
    source = rendering.ROOT / "control-plane/src/source/kubernetes/kinds.rs"
    if not source.exists():
        return
    rows = re.findall(r'Row::\w+\("\w+",\s*"([\w.-]*)",\s*"(\w+)"\)', source.read_text())
    mesh = (rendering.ROOT / "control-plane/src/status/kubernetes/mesh.rs").read_text()
    written = re.search(r'group: "([\w.-]+)".*?plural: "(\w+)"', mesh, re.DOTALL)
    watched = {*rows, written.groups()}
    rules = [r for r in the(chart, {}, "ClusterRole")["rules"] if "watch" in r["verbs"] and "resourceNames" not in r]
    may = {(group, resource) for r in rules for group in r["apiGroups"] for resource in r["resources"]}
    yield from (f"{resource}.{group} is watched, and may not be" for group, resource in sorted(watched - may))
    yield from (f"{resource}.{group} may be watched, and is not" for group, resource in sorted(may - watched))


@claim
def the_settings_of_injection_are_those_it_reads(chart):
    """The rendered file has the keys of the example at the head of inject/settings.rs, and its values where nothing is said."""
    source = rendering.ROOT / "control-plane/src/inject/settings.rs"
    if not source.exists():
        return
    lines = [line.removeprefix("//!").removeprefix(" ") for line in source.read_text().splitlines() if line.startswith("//!")]
    example = "\n".join(lines).split("```yaml\n")[1].split("```")[0]
    wanted, given = yaml.safe_load(example), yaml.safe_load(the(chart, {}, "ConfigMap")["data"]["injection.yaml"])
    # Left to what the mesh's own settings say.
    wanted.pop("traceSampling")
    for key in sorted(wanted.keys() | given.keys()):
        if wanted.get(key, "nothing") != given.get(key, "nothing"):
            yield f"{key} is {given.get(key, 'nothing')} here and {wanted.get(key, 'nothing')} there"


# Labels of a namespace, labels of a pod, and who injects it where the default control plane and revision canary are installed.
WHO = [
    ("nobody asked", {}, {}, None),
    ("the namespace did", {"inject": "enabled"}, {}, "default"),
    ("but not for this pod", {"inject": "enabled"}, {"inject": "disabled"}, None),
    ("the pod did", {}, {"inject": "enabled"}, "default"),
    ("the pod did, whatever its namespace says", {"inject": "disabled"}, {"inject": "enabled"}, "default"),
    ("both did", {"inject": "enabled"}, {"inject": "enabled"}, "default"),
    ("the namespace wants to be out", {"inject": "disabled"}, {}, None),
    ("the namespace picked a revision", {"revision": "canary"}, {}, "canary"),
    ("and asked as well", {"revision": "canary", "inject": "enabled"}, {}, "canary"),
    ("a revision, but out", {"revision": "canary", "inject": "disabled"}, {}, None),
    ("a revision, but not for this pod", {"revision": "canary"}, {"inject": "disabled"}, None),
    ("a revision, and the pod asked", {"revision": "canary"}, {"inject": "enabled"}, "canary"),
    ("a revision, out but for this pod", {"revision": "canary", "inject": "disabled"}, {"inject": "enabled"}, "canary"),
    ("the pod picked a revision", {}, {"revision": "canary"}, "canary"),
    ("in a namespace that is out", {"inject": "disabled"}, {"revision": "canary"}, "canary"),
    ("of another revision", {"revision": "old"}, {"revision": "canary"}, "canary"),
    ("a revision, and yet out", {"inject": "enabled"}, {"revision": "canary", "inject": "disabled"}, None),
    ("against its namespace", {"inject": "enabled"}, {"revision": "canary"}, "canary"),
    ("a revision that is not there", {"revision": "old"}, {}, None),
    ("the pod's is not there", {"inject": "enabled"}, {"revision": "old"}, None),
    ("never kube-system", {"inject": "enabled", "name": "kube-system"}, {"inject": "enabled"}, None),
    ("never our own", {"inject": "enabled", "name": "weft-system"}, {"inject": "enabled"}, None),
    ("never our own, by revision", {"revision": "canary", "name": "weft-system"}, {"revision": "canary"}, None),
]


@claim
def each_pod_is_asked_about_once_and_only_if_it_opted_in(chart):
    hooks = {}
    for revision in ("", "canary"):
        configuration = the(chart, {"revision": revision}, "MutatingWebhookConfiguration")
        hooks[revision or "default"] = configuration["webhooks"]
    for what, namespace, pod, wanted in WHO:
        namespace = {"kubernetes.io/metadata.name": namespace.get("name", "shop"), **labels(namespace)}
        asked = [
            revision
            for revision, webhooks in hooks.items()
            for webhook in webhooks
            if selects(webhook["namespaceSelector"], namespace) and selects(webhook["objectSelector"], labels(pod))
        ]
        if asked != ([wanted] if wanted else []):
            yield f"{what}: {asked or 'nobody'}, not {wanted or 'nobody'}"


def labels(short):
    return {f"weft.dev/{key}": value for key, value in short.items() if key != "name"}


def selects(selector, labels):
    """As Kubernetes does: NotIn is true of what has no such label."""
    for expression in selector["matchExpressions"]:
        value = labels.get(expression["key"])
        held = {
            "In": lambda: value in expression["values"],
            "NotIn": lambda: value not in expression["values"],
            "DoesNotExist": lambda: value is None,
        }[expression["operator"]]()
        if not held:
            return False
    return True


@claim
def kinds_of_ours_would_be_kept(_chart):
    """Those there are, and one more in a copy of the chart."""
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "examples.weft.dev"}}
    with tempfile.TemporaryDirectory() as folder:
        copied = f"{folder}/weft"
        shutil.copytree(rendering.CHART, copied)
        kinds = pathlib.Path(copied, "kinds")
        kinds.mkdir(exist_ok=True)
        (kinds / "example.yaml").write_text(yaml.safe_dump(kind))
        found = [t for t in objects(helm_python.Chart.load(copied), {}) if t["kind"] == kind["kind"]]
    if not any(t["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep" for t in found):
        yield "it is not there, or not kept"
    if not all(t["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep" for t in found):
        yield "one of them is not kept"
