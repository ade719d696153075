//! Every kind of bad manifest, a row each.

use super::*;

/// A good route whose parts a row replaces.
pub(super) const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: reviews
spec:
  parentRefs:
  - {group: '', kind: Service, name: reviews}
  rules:
  - matches:
    - path: {type: PathPrefix, value: /a}
      headers: [{name: x-a, value: b}]
      method: GET
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-b, value: c}]}
    backendRefs:
    - name: reviews-v1
      port: 80
      weight: 1
    timeouts: {request: 10s, backendRequest: 1s}
";

pub(super) const GRPC: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata:
  name: echo
spec:
  parentRefs:
  - {group: '', kind: Service, name: echo}
  rules:
  - matches:
    - method: {service: pkg.Echo, method: Say}
      headers: [{name: x-a, value: b}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-b, value: c}]}
    backendRefs:
    - name: echo-v1
      port: 80
";
pub(super) const TLS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata:
  name: db
spec:
  parentRefs:
  - {group: '', kind: Service, name: db}
  hostnames:
  - db.example.com
  rules:
  - backendRefs:
    - name: db-v1
      port: 5432
";

const TRAFFIC: &str = "\
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata:
  name: carts
spec:
  targetRefs: [{group: '', kind: Service, name: carts}]
  retryConstraint:
    budget: {percent: 20, interval: 10s}
    minRetryRate: {count: 10, interval: 1s}
  sessionPersistence: {type: Header}
";

const FAULT: &str = "\
apiVersion: weft.dev/v1alpha1
kind: FaultInjection
metadata:
  name: faults
spec:
  delay: {fixedDelay: 1s, percent: 5}
  abort: {httpStatus: 503, fraction: {numerator: 1, denominator: 1000}}
";

const LIMIT: &str = "\
apiVersion: weft.dev/v1alpha1
kind: RateLimit
metadata:
  name: limit
spec:
  targetRefs: [{group: '', kind: Service, name: reviews}]
  requests: 100
  per: 1s
  key: {type: Header, header: x-user}
";

/// A GRPCRoute's filter.
const FILTER: &str = "type: RequestHeaderModifier\n      requestHeaderModifier: {set: [{name: x-b, value: c}]}";

pub(super) const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: s
spec:
  clusterIP: 10.96.0.7
  selector: {app: a}
  ports:
  - name: http
    port: 80
    targetPort: http
    protocol: TCP
  - name: admin
    port: 81
";

pub(super) const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: p
  labels:
    app: a
spec:
  serviceAccountName: reviews
  containers:
  - name: c
    ports:
    - {name: http, containerPort: 8080}
status:
  podIP: 10.0.0.1
";

pub(super) const SLICE: &str = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: e
  labels: {kubernetes.io/service-name: s}
addressType: IPv4
ports:
- {name: http, port: 8080}
endpoints:
- addresses: [10.0.0.1]
  conditions: {ready: true}
";

pub(super) const PEER: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: pa
spec:
  selector:
    matchLabels: {app: a}
  mtls:
    mode: STRICT
  portLevelMtls:
    '8080': {mode: DISABLE}
";

#[test]
fn every_kind_of_bad_manifest_names_file_line_and_field_and_costs_nothing_else() {
    // What is wrong, a good document, the text in it to replace, by what; line and field (empty: the document).
    type Row = (&'static str, &'static str, &'static str, &'static str, u32, &'static str, &'static str);
    let many = |item: &str, n: usize| vec![item; n].join(", ");
    let rules = format!("  rules: [{}]\n  rulez:", many("{name: null}", 17)).leak();
    let matches = format!("matches: [{}]\n    m:", many("{method: GET}", 65)).leak();
    let all_matches =
        format!("  rules: [{}]\n  rulez:", many(&format!("{{matches: [{}]}}", many("{method: GET}", 50)), 3)).leak();
    #[rustfmt::skip]
    let rows: &[Row] = &[
        // Whatever the kind.
        ("not YAML", ROUTE, "spec:", "spec: [", 7, "", "only valid inside a block"),
        ("a tab", ROUTE, "  name: reviews\n", "\tname: reviews\n", 4, "", ""),
        ("a duplicate key", ROUTE, "      port: 80", "      name: b\n      port: 80", 18, "", "duplicate key"),
        ("not a mapping", ROUTE, ROUTE, "- a\n- b\n", 1, "", "must be a Kubernetes object"),
        ("no apiVersion", SERVICE, "apiVersion: v1\n", "", 1, "apiVersion", "is required"),
        ("a wrong apiVersion", ROUTE, "k8s.io/v1", "k8s.io/v1alpha2", 1, "apiVersion", "must be gateway.networking.k8s.io/v1 for"),
        ("a wrong group", SERVICE, "apiVersion: v1", "apiVersion: apps/v1", 1, "apiVersion", "must be v1 for a Service"),
        ("no kind", SERVICE, "kind: Service\n", "", 1, "kind", "is required"),
        ("a misspelt kind", SERVICE, "kind: Service", "kind: Srevice", 2, "kind", "there is no kind"),
        ("no metadata", SERVICE, "metadata:\n  name: s\n", "", 1, "metadata", "is required"),
        ("no name", SERVICE, "  name: s\n", "  labels: {}\n", 3, "metadata.name", "is required"),
        ("a name in upper case", ROUTE, "  name: reviews\nspec", "  name: Reviews\nspec", 4, "metadata.name", "DNS name"),
        ("a bad namespace", SERVICE, "  name: s\n", "  name: s\n  namespace: a.b\n", 5, "metadata.namespace", "DNS label"),
        ("a number as a label", POD, "    app: a", "    app: 1", 6, "metadata.labels.app", "write it in quotes"),
        ("a bad label value", POD, "    app: a", "    app: a b", 6, "metadata.labels.app", "label value"),
        ("no spec", PEER, "spec:", "spec: 3\nspek:", 5, "spec", "must be a mapping"),
        // Service.
        ("port out of range", SERVICE, "port: 80\n", "port: 0\n", 10, "spec.ports[0].port", "between 1 and 65535"),
        ("port as text", SERVICE, "port: 80\n", "port: '80'\n", 10, "spec.ports[0].port", "must be an integer"),
        ("no port", SERVICE, "    port: 80\n", "", 9, "spec.ports[0].port", "is required"),
        ("duplicate port", SERVICE, "port: 81", "port: 80", 14, "spec.ports[1].port", "duplicate port 80"),
        ("duplicate port name", SERVICE, "name: admin", "name: http", 13, "spec.ports[1].name", "duplicate port name"),
        ("unnamed of several", SERVICE, "  - name: admin\n    port", "  - port", 13, "spec.ports[1].name", "is required where"),
        ("bad targetPort name", SERVICE, "targetPort: http", "targetPort: Web_1", 11, "spec.ports[0].targetPort", "port name"),
        ("targetPort out of range", SERVICE, "targetPort: http", "targetPort: 70000", 11, "spec.ports[0].targetPort", "between"),
        ("unknown protocol", SERVICE, "protocol: TCP", "protocol: HTTP", 12, "spec.ports[0].protocol", "one of TCP, UDP, SCTP"),
        ("bad clusterIP", SERVICE, "10.96.0.7", "10.96.0.700", 6, "spec.clusterIP", "must be an IP address"),
        ("unknown type", SERVICE, "  clusterIP", "  type: Internal\n  clusterIP", 6, "spec.type", "must be one of"),
        ("no externalName", SERVICE, "  clusterIP", "  type: ExternalName\n  x", 5, "spec.externalName", "is required"),
        ("no ports", SERVICE, "  ports:", "  ports: []\n  portz:", 5, "spec.ports", "is required"),
        ("list for a mapping", SERVICE, "{app: a}", "[app]", 7, "spec.selector", "must be a mapping"),
        // Pod and EndpointSlice.
        ("bad podIP", POD, "podIP: 10.0.0.1", "podIP: 10.0.0", 14, "status.podIP", "must be an IP address"),
        ("bad containerPort", POD, "8080", "80800", 12, "spec.containers[0].ports[0].containerPort", "between 1 and 65535"),
        ("unknown phase", POD, "status:\n", "status:\n  phase: Fine\n", 14, "status.phase", "must be one of"),
        ("text for a boolean", POD, "spec:\n", "spec:\n  hostNetwork: 'yes'\n", 8, "spec.hostNetwork", "true or false"),
        ("unused field of a wrong type", POD, "- name: c\n", "- name: c\n    tty: 3\n", 11, "spec.containers[0].tty", "true or false"),
        ("wrong address family", SLICE, "[10.0.0.1]", "['fd00::1']", 10, "endpoints[0].addresses[0]", "addressType"),
        ("no addresses", SLICE, "[10.0.0.1]", "[]", 10, "endpoints[0].addresses", "at least one"),
        ("no addressType", SLICE, "addressType: IPv4\n", "", 1, "addressType", "is required"),
        ("unknown addressType", SLICE, "addressType: IPv4", "addressType: Ipv4", 6, "addressType", "must be one of"),
        // HTTPRoute.
        ("weight", ROUTE, "weight: 1\n", "weight: 1000001\n", 19, "spec.rules[0].backendRefs[0].weight", "must be between 0 and 1000000"),
        ("negative weight", ROUTE, "weight: 1\n", "weight: -1\n", 19, "spec.rules[0].backendRefs[0].weight", "must be between 0 and 1000000"),
        ("weight in per cent", ROUTE, "weight: 1\n", "weight: 10%\n", 19, "spec.rules[0].backendRefs[0].weight", "must be an integer"),
        ("Service without a port", ROUTE, "      port: 80\n", "", 17, "spec.rules[0].backendRefs[0].port", "is required for a Service"),
        ("backend without a name", ROUTE, "    - name: reviews-v1\n      port", "    - port", 17, "spec.rules[0].backendRefs[0].name", "is required"),
        ("relative path", ROUTE, "value: /a}", "value: a}", 10, "spec.rules[0].matches[0].path.value", "must start with /"),
        ("path with //", ROUTE, "value: /a}", "value: /a//b}", 10, "spec.rules[0].matches[0].path.value", "must not contain"),
        ("bad expression", ROUTE, "PathPrefix, value: /a}", "RegularExpression, value: '/(a'}", 10, "spec.rules[0].matches[0].path.value", "unclosed group"),
        ("look-ahead is not RE2", ROUTE, "PathPrefix, value: /a}", "RegularExpression, value: '/(?=a)'}", 10, "spec.rules[0].matches[0].path.value", "look-around"),
        ("unknown path type", ROUTE, "type: PathPrefix", "type: Prefix", 10, "spec.rules[0].matches[0].path.type", "must be one of Exact, PathPrefix"),
        ("unknown method", ROUTE, "method: GET", "method: get", 12, "spec.rules[0].matches[0].method", "must be one of"),
        ("bad header name", ROUTE, "name: x-a", "name: 'x a'", 11, "spec.rules[0].matches[0].headers[0].name", "must be a header name"),
        ("duplicate header", ROUTE, "value: b}]", "value: b}, {name: x-a, value: c}]", 11, "spec.rules[0].matches[0].headers[1].name", "duplicate"),
        ("header without a value", ROUTE, "name: x-a, value: b", "name: x-a", 11, "spec.rules[0].matches[0].headers[0].value", "is required"),
        ("line break in a header", ROUTE, "value: c}", "value: \"c\\r\\nd: e\"}", 15, "spec.rules[0].filters[0].requestHeaderModifier.set[0].value", "line breaks"),
        ("unknown filter", ROUTE, "type: RequestHeaderModifier", "type: RequestHeader", 14, "spec.rules[0].filters[0].type", "must be one of"),
        ("filter without settings", ROUTE, "      requestHeaderModifier:", "      x:", 14, "spec.rules[0].filters[0].requestHeaderModifier", "is required where"),
        ("redirect beside backends", ROUTE, FILTER, "type: RequestRedirect\n      requestRedirect: {}", 16, "spec.rules[0].backendRefs", "must be empty"),
        ("redirect status", ROUTE, FILTER, "type: RequestRedirect\n      requestRedirect: {statusCode: 300}", 15, "spec.rules[0].filters[0].requestRedirect.statusCode", "must be one of 301"),
        ("redirect scheme", ROUTE, FILTER, "type: RequestRedirect\n      requestRedirect: {scheme: ftp}", 15, "spec.rules[0].filters[0].requestRedirect.scheme", "must be one of http"),
        ("path modifier without a path", ROUTE, FILTER, "type: URLRewrite\n      urlRewrite: {path: {type: ReplaceFullPath}}", 15, "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath", "is required"),
        ("two path modifiers", ROUTE, FILTER, "type: URLRewrite\n      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /b}}", 15, "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch", "must not be set"),
        ("rewrite to a relative path", ROUTE, FILTER, "type: URLRewrite\n      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: a}}", 15, "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath", "must start with /"),
        ("rewrite to a host with a port", ROUTE, FILTER, "type: URLRewrite\n      urlRewrite: {hostname: 'a:80'}", 15, "spec.rules[0].filters[0].urlRewrite.hostname", "must be a DNS name"),
        ("mirror without a backend", ROUTE, FILTER, "type: RequestMirror\n      requestMirror: {percent: 1}", 15, "spec.rules[0].filters[0].requestMirror.backendRef", "is required"),
        ("mirror percent", ROUTE, FILTER, "type: RequestMirror\n      requestMirror: {backendRef: {name: a, port: 80}, percent: 101}", 15, "spec.rules[0].filters[0].requestMirror.percent", "between 0 and 100"),
        ("mirror fraction", ROUTE, FILTER, "type: RequestMirror\n      requestMirror: {backendRef: {name: a, port: 80}, fraction: {numerator: 3, denominator: 2}}", 15, "spec.rules[0].filters[0].requestMirror.fraction.numerator", "must not be more than"),
        ("mirror percent and fraction", ROUTE, FILTER, "type: RequestMirror\n      requestMirror: {backendRef: {name: a, port: 80}, percent: 1, fraction: {numerator: 1}}", 15, "spec.rules[0].filters[0].requestMirror.percent", "must not be set beside"),
        ("CORS `*` beside others", ROUTE, FILTER, "type: CORS\n      cors: {allowMethods: [GET, '*']}", 15, "spec.rules[0].filters[0].cors.allowMethods", "beside others"),
        ("CORS max age", ROUTE, FILTER, "type: CORS\n      cors: {maxAge: 0}", 15, "spec.rules[0].filters[0].cors.maxAge", "between 1 and"),
        ("retry code", ROUTE, "    timeouts:", "    retry: {codes: [200]}\n    timeouts:", 20, "spec.rules[0].retry.codes[0]", "between 400 and 599"),
        ("retry attempts", ROUTE, "    timeouts:", "    retry: {attempts: 0}\n    timeouts:", 20, "spec.rules[0].retry.attempts", "between 1 and"),
        ("header with a cookie", ROUTE, "    timeouts:", "    sessionPersistence: {type: Header, cookieConfig: {}}\n    timeouts:", 20, "spec.rules[0].sessionPersistence.cookieConfig", "must not be set where type is Header"),
        ("endless cookie", ROUTE, "    timeouts:", "    sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}\n    timeouts:", 20, "spec.rules[0].sessionPersistence.absoluteTimeout", "is required where"),
        ("malformed duration", ROUTE, "request: 10s", "request: 1.5s", 20, "spec.rules[0].timeouts.request", "GEP-2257"),
        ("inner timeout longer", ROUTE, "backendRequest: 1s", "backendRequest: 11s", 20, "spec.rules[0].timeouts.backendRequest", "must not be longer"),
        ("parent without a name", ROUTE, "Service, name: reviews}", "Service}", 7, "spec.parentRefs[0].name", "is required"),
        ("parent port", ROUTE, "Service, name", "Service, port: 99999, name", 7, "spec.parentRefs[0].port", "between 1 and 65535"),
        ("too many rules", ROUTE, "  rules:", rules, 8, "spec.rules", "17 entries, at most 16"),
        ("too many matches", ROUTE, "matches:", matches, 9, "spec.rules[0].matches", "65 entries, at most 64"),
        ("too many matches in all", ROUTE, "  rules:", all_matches, 8, "spec.rules", "150 matches together, at most 128"),
        ("a mapping for a list", ROUTE, "parentRefs:\n  - ", "parentRefs:\n    ", 6, "spec.parentRefs", "must be a list"),
        // GRPCRoute.
        ("service with a slash", GRPC, "pkg.Echo", "pkg/Echo", 10, "spec.rules[0].matches[0].method.service", "must be a gRPC service"),
        ("service that ends with a dot", GRPC, "pkg.Echo", "pkg.", 10, "spec.rules[0].matches[0].method.service", "must be a gRPC service"),
        ("method with a dot", GRPC, "method: Say", "method: Say.It", 10, "spec.rules[0].matches[0].method.method", "must be a gRPC method"),
        ("neither service nor method", GRPC, "service: pkg.Echo, method: Say", "type: Exact", 10, "spec.rules[0].matches[0].method", "needs a service, a method, or both"),
        ("both empty", GRPC, "service: pkg.Echo, method: Say", "type: RegularExpression, service: '', method: ''", 10, "spec.rules[0].matches[0].method", "needs a service, a method, or both"),
        ("bad service expression", GRPC, "service: pkg.Echo", "type: RegularExpression, service: '('", 10, "spec.rules[0].matches[0].method.service", "unclosed group"),
        ("unknown kind of match", GRPC, "service: pkg", "type: Regex, service: pkg", 10, "spec.rules[0].matches[0].method.type", "must be one of Exact, RegularExpression"),
        ("a header twice", GRPC, "value: b}]", "value: b}, {name: x-a, value: c}]", 11, "spec.rules[0].matches[0].headers[1].name", "duplicate"),
        ("an HTTPRoute's filter", GRPC, "type: RequestHeaderModifier\n      requestHeaderModifier: {set", "type: CORS\n      cors: {set", 13, "spec.rules[0].filters[0].type", "must be one of RequestHeaderModifier"),
        ("an HTTPRoute's filter on a backend", GRPC, "port: 80\n", "port: 80\n      filters: [{type: CORS, cors: {}}]\n", 18, "spec.rules[0].backendRefs[0].filters[0].type", "must be one of RequestHeaderModifier"),
        ("a version that never was", GRPC, "k8s.io/v1\n", "k8s.io/v1beta1\n", 1, "apiVersion", "must be gateway.networking.k8s.io/v1 for a GRPCRoute"),
        // TLSRoute, and TCPRoute alike.
        ("a server name that is an address", TLS, "- db.example.com", "- 10.0.0.1", 9, "spec.hostnames[0]", "must be a DNS name: an address"),
        ("a server name in capitals", TLS, "- db.example.com", "- DB.example.com", 9, "spec.hostnames[0]", "must be a DNS name, in lower case"),
        ("a wildcard within", TLS, "- db.example.com", "- 'db.*.com'", 9, "spec.hostnames[0]", "must be a DNS name, in lower case"),
        ("no server names", TLS, "  hostnames:\n  - db.example.com\n", "", 5, "spec.hostnames", "is required"),
        ("an empty list of them", TLS, "hostnames:\n  - db.example.com", "hostnames: []", 8, "spec.hostnames", "at least one name"),
        ("two rules", TLS, "  rules:\n", "  rules:\n  - backendRefs: [{name: db-v2, port: 5432}]\n", 10, "spec.rules", "2 entries, at most 1"),
        ("no rules", TLS, "  rules:\n  - backendRefs:\n    - name: db-v1\n      port: 5432\n", "  rules: []\n", 10, "spec.rules", "must hold one rule"),
        ("no backend", TLS, "backendRefs:\n    - name: db-v1\n      port: 5432\n", "backendRefs: []\n", 11, "spec.rules[0].backendRefs", "at least one backend"),
        ("a backend without a port", TLS, "      port: 5432\n", "", 12, "spec.rules[0].backendRefs[0].port", "is required"),
        ("a weight below zero", TLS, "port: 5432\n", "port: 5432\n      weight: -1\n", 14, "spec.rules[0].backendRefs[0].weight", "between 0 and 1000000"),
        ("filters", TLS, "port: 5432\n", "port: 5432\n      filters: []\n", 14, "spec.rules[0].backendRefs[0].filters", "a connection has no filters"),
        ("an older version", TLS, "k8s.io/v1\n", "k8s.io/v1alpha2\n", 1, "apiVersion", "must be gateway.networking.k8s.io/v1 for a TLSRoute"),
        ("extension without a kind", ROUTE, FILTER, "type: ExtensionRef\n      extensionRef: {group: weft.dev, name: a}", 15, "spec.rules[0].filters[0].extensionRef.kind", "is required"),
        // XBackendTrafficPolicy.
        ("a policy for nothing", TRAFFIC, "[{group: '', kind: Service, name: carts}]", "[]", 6, "spec.targetRefs", "at least one target"),
        ("a target twice", TRAFFIC, "name: carts}]", "name: carts}, {group: '', kind: Service, name: carts}]", 6, "spec.targetRefs", "name Service carts twice"),
        ("a target without a group", TRAFFIC, "group: '', ", "", 6, "spec.targetRefs[0].group", "is required"),
        ("more than all of them", TRAFFIC, "percent: 20", "percent: 101", 8, "spec.retryConstraint.budget.percent", "between 0 and 100"),
        ("to look back a moment", TRAFFIC, "interval: 10s", "interval: 999ms", 8, "spec.retryConstraint.budget.interval", "must be 1s to 1h"),
        ("to look back a day", TRAFFIC, "interval: 10s", "interval: 24h", 8, "spec.retryConstraint.budget.interval", "must be 1s to 1h"),
        ("none but the share", TRAFFIC, "count: 10", "count: 0", 9, "spec.retryConstraint.minRetryRate.count", "between 1 and 1000000"),
        ("a rate of no time", TRAFFIC, "interval: 1s", "interval: 0s", 9, "spec.retryConstraint.minRetryRate.interval", "more than 0s and 1h at most"),
        ("a session by something else", TRAFFIC, "type: Header", "type: Query", 10, "spec.sessionPersistence.type", "must be one of Cookie, Header"),
        ("a kind with an X in the channel without", TRAFFIC, "x-k8s.io/v1alpha1", "k8s.io/v1", 1, "apiVersion", "must be gateway.networking.x-k8s.io/v1alpha1 for a XBackendTrafficPolicy"),
        // FaultInjection.
        ("neither delay nor abort", FAULT, "  delay: {fixedDelay: 1s, percent: 5}\n  abort: {httpStatus: 503, fraction: {numerator: 1, denominator: 1000}}\n", "  {}\n", 5, "spec", "needs a delay, an abort, or both"),
        ("delay without a time", FAULT, "fixedDelay: 1s, ", "", 6, "spec.delay.fixedDelay", "is required"),
        ("no delay at all", FAULT, "fixedDelay: 1s", "fixedDelay: 0s", 6, "spec.delay.fixedDelay", "more than 0s and 1h at most"),
        ("a delay of a day", FAULT, "fixedDelay: 1s", "fixedDelay: 24h", 6, "spec.delay.fixedDelay", "more than 0s and 1h at most"),
        ("a delay that is no duration", FAULT, "fixedDelay: 1s", "fixedDelay: 0.5s", 6, "spec.delay.fixedDelay", "GEP-2257"),
        ("more than all", FAULT, "percent: 5", "percent: 101", 6, "spec.delay.percent", "between 0 and 100"),
        ("percent and fraction", FAULT, "percent: 5", "percent: 5, fraction: {numerator: 1}", 6, "spec.delay.percent", "must not be set beside"),
        ("a part of less", FAULT, "denominator: 1000", "denominator: 0", 7, "spec.abort.fraction.denominator", "between 1 and"),
        ("abort without a status", FAULT, "httpStatus: 503, ", "", 7, "spec.abort", "needs httpStatus, grpcStatus, or both"),
        ("a status that goes on", FAULT, "httpStatus: 503", "httpStatus: 100", 7, "spec.abort.httpStatus", "between 200 and 599"),
        ("a status of gRPC that is a number", FAULT, "httpStatus: 503", "grpcStatus: 14", 7, "spec.abort.grpcStatus", "must be a string"),
        ("a status of gRPC that is none", FAULT, "httpStatus: 503", "grpcStatus: OK", 7, "spec.abort.grpcStatus", "must be one of CANCELLED"),
        ("a version of ours that never was", FAULT, "weft.dev/v1alpha1", "weft.dev/v1", 1, "apiVersion", "must be weft.dev/v1alpha1 for a FaultInjection"),
        // RateLimit.
        ("no target", LIMIT, "targetRefs: [{group: '', kind: Service, name: reviews}]", "targetRefs: []", 6, "spec.targetRefs", "at least one Service or route"),
        ("a route of connections", LIMIT, "kind: Service, name", "kind: TCPRoute, name", 6, "spec.targetRefs[0].kind", "must be one of Service, HTTPRoute, GRPCRoute"),
        ("a route in a Service's group", LIMIT, "kind: Service, name", "kind: HTTPRoute, name", 6, "spec.targetRefs[0].group", "must be one of gateway.networking.k8s.io"),
        ("a route without its group", LIMIT, "group: '', kind: Service, name", "kind: GRPCRoute, name", 6, "spec.targetRefs[0].group", "is required for a route"),
        ("a Service in a route's group", LIMIT, "group: ''", "group: gateway.networking.k8s.io", 6, "spec.targetRefs[0].group", "must be one of , core"),
        ("no requests", LIMIT, "requests: 100", "requests: 0", 7, "spec.requests", "between 1 and"),
        ("no burst", LIMIT, "requests: 100", "requests: 100\n  burst: 0", 8, "spec.burst", "between 1 and"),
        ("in no time", LIMIT, "per: 1s", "per: 0s", 8, "spec.per", "more than 0s and 24h at most"),
        ("a key that is none", LIMIT, "type: Header", "type: Cookie", 9, "spec.key.type", "must be one of All"),
        ("a header that is not said", LIMIT, ", header: x-user", "", 9, "spec.key.header", "is required where"),
        ("a header that is not meant", LIMIT, "type: Header", "type: All", 9, "spec.key.header", "must not be set"),
        // PeerAuthentication.
        ("unknown mode", PEER, "mode: STRICT", "mode: strict", 9, "spec.mtls.mode", "must be one of UNSET, DISABLE"),
        ("port that is none", PEER, "'8080'", "http", 11, "spec.portLevelMtls.http", "between 1 and 65535"),
        ("ports without a selector", PEER, "  selector:\n    matchLabels: {app: a}\n", "", 8, "spec.portLevelMtls", "needs a selector"),
    ];
    let mut wrong = Vec::new();
    for (name, good, from, to, line, field, message) in rows {
        assert!(good.contains(from), "{name}: nothing to replace");
        let bad = good.replacen(from, to, 1);
        // Text in the file before and after, so that lines are those of the file.
        let file =
            |middle: &str, port| format!("{}---\n{middle}---\n{}", service("before", port), service("after", port));

        // Cold: nothing of it, all of the others.
        let mut state = State::default();
        let edit = write(&mut state, "d/bad.yaml", &file(&bad, 1));
        let errors: Vec<_> = edit.problems.iter().filter(|p| p.severity == Severity::Error).collect();
        let found: Vec<_> =
            errors.iter().map(|p| (p.file.as_str(), p.line, p.field.as_str(), p.message.as_str())).collect();
        match found[..] {
            [("d/bad.yaml", l, f, m)] if l == line + 5 && f == *field && m.contains(message) => {}
            _ => wrong.push(format!("{name}: expected {}: {field}: {message}, found {found:?}", line + 5)),
        }
        assert_eq!(names(&edit), ["Service default/after", "Service default/before"], "{name}");

        // Warm: the last good version stays, and the others' edits take effect.
        let mut state = State::default();
        let edit = write(&mut state, "d/bad.yaml", &file(good, 1));
        assert_eq!(errors_in(&edit), [""; 0], "{name}");
        let before: Vec<_> = objects(&state);
        let edit = write(&mut state, "d/bad.yaml", &file(&bad, 2));
        assert_eq!(
            (names(&edit), edit.objects.removes.len()),
            (vec!["Service default/after".into(), "Service default/before".into()], 0),
            "{name}"
        );
        assert_eq!(objects(&state).len(), before.len(), "{name}");
        // Mended, everything is as it was: not even a generation has moved.
        write(&mut state, "d/bad.yaml", &file(good, 2));
        let of_row = |objects: Vec<Object>| {
            objects
                .into_iter()
                .filter(|o| !["after", "before"].contains(&o.meta().name.name.as_str()))
                .collect::<Vec<_>>()
        };
        assert_eq!(of_row(objects(&state)), of_row(before), "{name}");
        // Removed, it goes.
        let edit = write(&mut state, "d/bad.yaml", &format!("{}---\n{}", service("before", 2), service("after", 2)));
        assert!(!edit.objects.removes.is_empty() && edit.problems.is_empty(), "{name}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows.len() >= 15);
}

#[test]
fn several_things_wrong_in_one_document_are_all_named() {
    let bad = ROUTE.replace("value: /a}", "value: a}").replace("weight: 1\n", "weight: x\n").replace("10s", "10");
    let mut state = State::default();
    let lines: Vec<_> = write(&mut state, "r.yaml", &bad).problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [10, 19, 20]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Decoded without the net of `decode_safely`, so that a panic of ours would be seen.
    #[test]
    fn no_text_makes_reading_panic_and_every_flaw_lies_in_its_file(
        which in 0usize..9,
        at in 0usize..1_000,
        cut in 0usize..12,
        put in proptest::string::string_regex("[\\PC\n\t &*:{}\\[\\],'\"|>0-9-]{0,8}").expect("an expression"),
    ) {
        let mut text: Vec<char> = [ROUTE, GRPC, SERVICE, POD, SLICE, PEER, FAULT, LIMIT, TRAFFIC][which].chars().collect();
        let at = at % text.len();
        text.splice(at..(at + cut).min(text.len()), put.chars());
        let text: String = text.into_iter().collect();
        let lines = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
        for document in documents::split(&text) {
            for decoded in decode::decode(&document) {
                let refused = decoded.flaws.iter().any(|flaw| flaw.severity == Severity::Error);
                proptest::prop_assert_eq!(refused, decoded.outcome == Outcome::Bad);
                for flaw in decoded.flaws {
                    proptest::prop_assert!((1..=lines + 1).contains(&flaw.at.line), "{:?} of {}", flaw, lines);
                }
            }
        }
    }
}
