"""Renders the chart as Helm does, and checks that what comes out are objects that Kubernetes takes.

Each object is held against the published schema of its kind, strictly (a field that does not exist is an error), for the
oldest and the newest Kubernetes that the chart is for.
"""

import functools
import json
import pathlib

import helm_python
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "weft"
NAMESPACE = "weft-system"
KUBERNETES = ["1.27", "1.36"]
# Kinds that Kubernetes does not define; what is in them is held by the claims.
OTHERS = {"ServiceMonitor", "PodMonitor"}
# Kinds that the chart renders only from this version on.
SINCE = {"ValidatingAdmissionPolicy": "1.30", "ValidatingAdmissionPolicyBinding": "1.30"}

# Every option away from its default, none of which may keep another from working.
EVERYTHING = yaml.safe_load("""
revision: canary
image: {repository: registry.example.com/mesh, tag: v1.2.3, pullPolicy: Always, pullSecrets: [{name: registry}]}
mesh:
  trustDomain: mesh.example.com
  clusterDomain: example.internal
  clusterCidrs: [10.96.0.0/12, "fd00:10::/64"]
  outboundPolicy: registry-only
  certificateTtl: 1h30m
  traceSampling: 0.25%
controlPlane:
  replicas: 3
  image: registry.example.com/mesh/control-plane@sha256:0000000000000000000000000000000000000000000000000000000000000000
  logLevel: info,weft_control_plane::discovery=debug
  logFormat: text
  listenAddress: "[::]"
  debug: true
  resources: {requests: {cpu: 0.5, memory: 1Gi}, limits: {cpu: 2, memory: 2Gi}}
  podDisruptionBudget: true
  priorityClassName: system-cluster-critical
  terminationGracePeriodSeconds: 60
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
  topologySpreadConstraints: [{maxSkew: 2, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway}]
  podLabels: {team: mesh}
  podAnnotations: {example.com/owner: mesh}
injection:
  failurePolicy: Ignore
  timeoutSeconds: 5
  protectWebhook: false
  excludeNamespaces: [monitoring]
  sidecarMode: classic
  cni: true
  jobsInClassicMode: true
  excludeInboundPorts: [9100]
  excludeOutboundPorts: [5432, 9000-9010]
  excludeOutboundCidrs: [169.254.169.254/32]
  includeOutboundCidrs: [10.0.0.0/8]
  allowImageAnnotation: true
  sidecar:
    image: registry.example.com/sidecar@sha256:0000000000000000000000000000000000000000000000000000000000000000
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 1, memory: 512Mi}}
    logLevel: debug
    accessLog: true
    busyPoll: false
    otlpEndpoint: http://collector.observability:4317
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}
monitoring: {serviceMonitor: true, podMonitor: true, interval: 15s, labels: {release: prometheus}}
helmTest: {namespace: mesh-test}
""")

MATRIX = {
    "default": {},
    "ha": yaml.safe_load((CHART / "values-ha.yaml").read_text()),
    "everything": EVERYTHING,
    "one replica": {"controlPlane": {"replicas": 1, "podDisruptionBudget": False}},
    "revision": {"revision": "canary"},
    "a revision that looks like a number": {"revision": "1"},
    "a revision that looks like a boolean": {"revision": "on"},
    "network policy": {"networkPolicy": {"enabled": True}},
    "monitors": {"monitoring": {"serviceMonitor": True, "podMonitor": True}},
    "cni": {"injection": {"cni": True}},
    "failurePolicy Ignore": {"injection": {"failurePolicy": "Ignore"}},
    "IPv6": {"controlPlane": {"listenAddress": "[::]"}},
}

# What the schema must refuse, and the word by which it says where.
REFUSED = [
    ({"replicas": 3}, "replicas"),
    ({"controlPlane": {"replica": 3}}, "replica"),
    ({"controlPlane": {"replicas": 0}}, "replicas"),
    ({"controlPlane": {"replicas": "2"}}, "replicas"),
    ({"controlPlane": {"resources": {"limits": {"disk": "1Gi"}}}}, "disk"),
    ({"controlPlane": {"terminationGracePeriodSeconds": 1}}, "terminationGracePeriodSeconds"),
    ({"controlPlane": {"nodeSelector": {"a": True}}}, "nodeSelector"),
    ({"revision": 1}, "revision"),
    ({"revision": "Upper"}, "revision"),
    ({"revision": "a.b"}, "revision"),
    ({"revision": "x" * 33}, "revision"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"image": {"repository": "weft.dev/"}}, "repository"),
    ({"mesh": {"trustDomain": "UPPER"}}, "trustDomain"),
    ({"mesh": {"outboundPolicy": "deny"}}, "outboundPolicy"),
    ({"mesh": {"certificateTtl": "24"}}, "certificateTtl"),
    ({"mesh": {"traceSampling": 1}}, "traceSampling"),
    ({"mesh": {"clusterCidrs": ["10.0.0.0"]}}, "clusterCidrs"),
    ({"injection": {"failurePolicy": "fail"}}, "failurePolicy"),
    ({"injection": {"timeoutSeconds": 31}}, "timeoutSeconds"),
    ({"injection": {"excludeOutboundPorts": ["web"]}}, "excludeOutboundPorts"),
    ({"injection": {"sidecar": {"otlpEndpoint": "collector:4317"}}}, "otlpEndpoint"),
    ({"injection": {"enabled": False}}, "enabled"),
    ({"injection": {"protectWebhook": "yes"}}, "protectWebhook"),
    ({"networkPolicy": True}, "networkPolicy"),
    ({"monitoring": {"labels": {"a": 1}}}, "labels"),
]

# Never a place for a mesh, and the one that `helm install` without --namespace takes is among them.
REFUSED_NAMESPACES = ["default", "kube-system"]


def load():
    return helm_python.Chart.load(CHART)


def objects(chart, values, namespace=NAMESPACE, **options):
    """The objects that `values` render to, in the order of their files. Nobody may change them."""
    rendered = chart.render(values, name="weft", namespace=namespace, **options)
    files = sorted((path, text) for path, text in rendered.items() if not path.endswith(".txt"))
    return parsed("\n---\n".join(text for _, text in files))


@functools.cache
def parsed(text):
    return [document for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if document]


def render_all(chart, values):
    """Every file that `values` render to, as text."""
    return chart.render(values, name="weft", namespace=NAMESPACE)


def called(thing):
    return f"{thing['kind']} {thing['metadata'].get('namespace', '')}/{thing['metadata']['name']}"


def lint():
    """What `helm lint --strict` finds."""
    for values in MATRIX.values():
        report = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE)
        for message in report["messages"]:
            # Severity 1 is a recommendation; an icon is the only one, and there is none.
            if message["severity"] > 1 or "icon" not in message["error"]:
                yield f"{message['path']}: {message['error']}"
        yield from report["errors"]


def invalid(things):
    """What Kubernetes would say against `things`."""
    for thing in things:
        if thing["kind"] not in OTHERS:
            yield from (f"{called(thing)}, {problem}" for problem in said(json.dumps(thing, sort_keys=True)))


@functools.cache
def said(thing):
    """The same for one, as JSON: most renderings have most objects in common."""
    problems, read = [], json.loads(thing)
    for version in KUBERNETES:
        if number(version) < number(SINCE.get(read["kind"], "0")):
            continue
        try:
            kubernetes_validate.validate(read, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
    return problems


def number(version):
    return [int(part) for part in version.split(".")]


def matrix(chart):
    for name, values in MATRIX.items():
        things = objects(chart, values)
        for problem in invalid(things):
            yield f"{name}: {problem}"
        names = [called(thing) for thing in things]
        yield from (f"{name}: {twice} is there twice" for twice in {n for n in names if names.count(n) > 1})
        if render_all(chart, values) != render_all(chart, values):
            yield f"{name}: rendered twice, it differs: nothing may be random"
        if objects(chart, values, is_upgrade=True, is_install=False, revision=7) != things:
            yield f"{name}: an upgrade renders something else than an installation"


def refusals(chart):
    for values, word in REFUSED:
        try:
            objects(chart, values)
            yield f"the schema takes {values}"
        except helm_python.HelmError as error:
            if word not in str(error):
                yield f"{values} is refused, but not for `{word}`: {error}"
    for namespace in REFUSED_NAMESPACES:
        try:
            objects(chart, {}, namespace=namespace)
            yield f"it may be installed into {namespace}"
        except helm_python.HelmError as error:
            if "--namespace weft-system" not in str(error):
                yield f"namespace {namespace} is refused without saying what to do: {error}"
