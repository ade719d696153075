//! What good TCPRoutes and TLSRoutes are read as. Bad ones are in `refused`.

use super::*;
use crate::model::{TcpRoute, TlsRoute};

#[test]
fn a_route_of_connections_has_backends_and_perhaps_names() {
    let text = "\
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: db, port: 5432}]
  rules:
  - name: canary
    backendRefs: [{name: db-v1, port: 5432, weight: 9}, {name: db-v2, namespace: other, port: 5433}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: db, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: db}]
  hostnames: [db.example.com, '*.example.org']
  rules:
  - backendRefs: [{name: db-v1, port: 5432}]
";
    let mut state = State::default();
    assert_eq!(errors_in(&write(&mut state, "r.yaml", text)), Vec::<String>::new());
    let (mut tcp, mut tls): (Vec<TcpRoute>, Vec<TlsRoute>) = (Vec::new(), Vec::new());
    for object in objects(&state) {
        match object {
            Object::TcpRoute(route) => tcp.push(route),
            Object::TlsRoute(route) => tls.push(route),
            _ => {}
        }
    }
    let ([tcp], [tls]) = (&*tcp, &*tls) else { panic!("{tcp:?} {tls:?}") };
    assert_eq!((tcp.parents[0].port, tcp.rules.len(), tcp.rules[0].name.as_deref()), (Some(5432), 1, Some("canary")));
    let backends: Vec<_> = tcp.rules[0].backends.iter().map(|it| (&*it.namespace, &*it.name, it.weight)).collect();
    assert_eq!(backends, [("shop", "db-v1", 9), ("other", "db-v2", 1)]);
    assert_eq!(tls.hostnames, ["db.example.com", "*.example.org"]);
    assert_eq!(tls.rules[0].backends[0].port, Some(5432));
}
