//! Resources as the control plane might send them: any bytes compile or are refused by name, and what compiled answers
//! any request. See `crate::fuzzing`.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_proto::{EndpointsName, type_url, v1};

use super::compile::{
    Intern, compile_endpoints, compile_inbound_policy, compile_service, compile_settings, compile_trust_bundle,
    compile_workload,
};
use super::model::{Backend, BackendState, Policy, Protocol};
use crate::route::{After, RequestView};

#[derive(Default)]
struct Backends(BTreeMap<String, Arc<Backend>>);

impl Intern for Backends {
    fn intern(&mut self, name: EndpointsName, protocol: Protocol, policy: Policy) -> Arc<Backend> {
        let made = || Arc::new(Backend::new(name.clone(), protocol, policy.clone(), BackendState::new(&policy)));
        Arc::clone(self.0.entry(name.to_string()).or_insert_with(made))
    }
}

/// The first byte is the resource's type, the second the length of the text of a request that a compiled service is then
/// asked about, followed by that text and the resource's encoding.
pub fn resources(data: &[u8]) {
    let [kind, len, rest @ ..] = data else { return };
    let (request, bytes) = rest.split_at(usize::from(*len).min(rest.len()));
    match kind % 6 {
        0 => {
            let Ok(resource) = v1::Service::decode(bytes) else { return };
            let Ok(service) = compile_service(&resource, "node-1", &mut Backends::default()) else { return };
            for port in service.ports.values() {
                let _ = port.backends().count();
                ask(port, request);
                if let Some(connections) = &port.connections {
                    let _ = connections.find(Some(&String::from_utf8_lossy(request)));
                }
            }
        }
        1 => {
            let Ok(resource) = v1::Endpoints::decode(bytes) else { return };
            let Ok(compiled) = compile_endpoints(&resource) else { return };
            assert_eq!(compiled.endpoints.len() + compiled.named.len(), resource.endpoints.len());
            let balancer = BackendState::new(&Policy::default());
            balancer.set_endpoints(compiled.endpoints, std::time::Instant::now());
        }
        2 => {
            let Ok(resource) = v1::Workload::decode(bytes) else { return };
            if let Ok(workload) = compile_workload(&resource) {
                let reaches = workload.mesh_tls || workload.ports.values().any(|port| port.mesh_tls);
                assert!(!reaches || workload.identity.is_some(), "mesh TLS to nobody");
            }
        }
        3 => {
            let Ok(resource) = v1::InboundPolicy::decode(bytes) else { return };
            let _ = compile_inbound_policy(&resource);
        }
        4 => {
            let Ok(resource) = v1::MeshSettings::decode(bytes) else { return };
            if let Ok(settings) = compile_settings(&resource, None) {
                assert!(settings.tracing_sample_per_10000 <= 10_000);
                let _ = settings.knows_host(&String::from_utf8_lossy(request));
            }
        }
        _ => {
            let Ok(resource) = v1::TrustBundle::decode(bytes) else { return };
            let _ = compile_trust_bundle(resource, "weft.local");
        }
    }
}

/// Whether a resource of this type compiles, or why not.
///
/// # Errors
/// What a proxy would refuse it with.
pub fn compiles(type_url: &str, name: &str, body: &[u8]) -> Result<(), String> {
    fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
        M::decode(body).map_err(|error| error.to_string())
    }
    let compiled = match type_url {
        type_url::SERVICE => compile_service(&decode(body)?, "node-1", &mut Backends::default()).map(drop),
        type_url::ENDPOINTS => {
            name.parse::<EndpointsName>().map_err(|error| error.to_string())?;
            compile_endpoints(&decode(body)?).map(drop)
        }
        type_url::WORKLOAD => compile_workload(&decode(body)?).map(drop),
        type_url::INBOUND_POLICY => compile_inbound_policy(&decode(body)?).map(drop),
        type_url::MESH_SETTINGS => compile_settings(&decode(body)?, None).map(drop),
        _ => return Err("an unknown type".to_owned()),
    };
    compiled.map_err(|error| error.to_string())
}

/// `METHOD path?query header`.
fn ask(port: &super::ServicePort, request: &[u8]) {
    let Some(table) = &port.routes else { return };
    let mut words = request.splitn(3, |&byte| byte == b' ');
    let method = words.next().and_then(|method| Method::from_bytes(method).ok()).unwrap_or(Method::GET);
    let target = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(words.next().unwrap_or_default()) {
        headers.append("x-env", value.clone());
        headers.append("x-env", value);
    }
    let mut rng = StdRng::seed_from_u64(1);
    for path in [path, "/", "/api/x"] {
        let Some(rule) = table.find(&RequestView { method: &method, path, query, headers: &headers }) else { continue };
        let (_, filters) = rule.choose(&mut rng);
        let Ok(request) = http::Request::builder().method(&method).uri(path).body(()) else { continue };
        let (mut edited, ()) = request.into_parts();
        edited.headers = headers.clone();
        let mut after = After::default();
        for filters in [&rule.filters, filters] {
            let _ = filters.apply_request(&mut edited, &mut rng, &mut after);
            filters.apply_response(&mut edited.headers);
        }
        if let Some(shared) = after.shared {
            shared.apply(&mut edited.headers);
        }
    }
}
