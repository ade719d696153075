//! What users write: the manifests of a small shop.

pub(crate) fn pod(name: &str, account: &str, app: &str, address: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{app: {app}, weft.dev/mesh-tls: \"1\"}}
spec:
  serviceAccountName: {account}
  containers:
  - name: app
    image: app
    ports:
    - containerPort: 8080
status:
  phase: Running
  podIP: {address}
"
    )
}

pub(crate) fn node(name: &str, zone: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{topology.kubernetes.io/zone: {zone}}}\n"
    )
}

fn service(name: &str, app: &str, vip: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: shop
spec:
  clusterIP: {vip}
  selector:
    app: {app}
  ports:
  - name: http
    port: 80
    targetPort: 8080
    appProtocol: http
"
    )
}

pub(crate) fn manifests_of_the_mesh() -> String {
    [
        service("reviews", "reviews-v1", "10.96.0.7"),
        service("reviews-v1", "reviews-v1", "10.96.0.8"),
        service("reviews-v2", "reviews-v2", "10.96.0.9"),
        pod("client", "client", "client", "10.1.0.1"),
        pod("reviews-v1", "reviews", "reviews-v1", "10.1.0.2"),
        pod("reviews-v2", "reviews", "reviews-v2", "10.1.0.3"),
    ]
    .join("---\n")
}

/// The canary: so much to v1, so much to v2.
pub(crate) fn route(v1: u32, v2: u32) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: canary
  namespace: shop
spec:
  parentRefs:
  - group: \"\"
    kind: Service
    name: reviews
  rules:
  - backendRefs:
    - name: reviews-v1
      port: 80
      weight: {v1}
    - name: reviews-v2
      port: 80
      weight: {v2}
"
    )
}
