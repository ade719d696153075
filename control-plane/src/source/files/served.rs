//! Objects as an API server hands them out, read by the decoders of manifests: the semantics and the messages are the
//! same because the code is. JSON becomes a tree, the tree an object, and the tree is gone before the next one is read,
//! so a page of a list holds objects only.
//!
//! What a cluster's object carries and nobody asks for is left out on the way (`managedFields`, annotations and labels
//! that mean nothing to Weft). Bound: one tree, of at most what the API server lets an object be (1.5 MB).

use std::fmt;

use k8s_openapi::jiff;
use serde::Deserializer;
use serde::de::{Deserialize, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::decode;
use super::field::Flaws;
use super::tree::{Entry, Mark, Node, Value};
use crate::model::{Age, Kind, Object, ObjectKey, ObjectName};
use crate::source::{Problem, kind_name, meta_mut};

/// An object of an API server.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::source) struct Served {
    pub(in crate::source) name: ObjectName,
    /// Tells an object from a later one of the same name.
    pub(in crate::source) uid: String,
    pub(in crate::source) resource_version: String,
    pub(in crate::source) form: Form,
    /// What a Node's kubelet says it is.
    pub(in crate::source) kubelet: Option<String>,
    /// What is wrong with it.
    pub(in crate::source) problems: Vec<Problem>,
}

/// What it is to Weft.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::source) enum Form {
    Good(Box<Object>),
    /// It cannot be used; its last good form stays.
    Bad,
    /// It is none that Weft reads.
    Ignored,
}

/// Annotations of others say nothing to Weft, and may be larger than all the rest (`kubectl apply` keeps a copy there).
const ANNOTATIONS: &str = "weft.dev/";
/// Of a Node's labels only its place matters.
const NODE_LABELS: &str = "topology.kubernetes.io/";

/// Reads an object of this kind. Fails only where it is no object at all.
pub(in crate::source) fn read<'de, D: Deserializer<'de>>(kind: Kind, from: D) -> Result<Served, D::Error> {
    let node = Node::deserialize(from)?;
    let metadata = node.get("metadata").map(|entry| &entry.value);
    let text = |key| metadata.and_then(|metadata| metadata.text(key)).unwrap_or_default();
    if text("name").is_empty() {
        return Err(D::Error::custom(format_args!("a {} without a name", kind_name(kind))));
    }
    let name = ObjectName::new(text("namespace"), text("name"));

    let flaws = Flaws::default();
    let object = decode::decode_served(kind, &node, &flaws);
    let form = match object {
        _ if flaws.refused() => Form::Bad,
        Some(mut object) => {
            trim(&mut object);
            let meta = meta_mut(&mut object);
            meta.generation = match metadata.and_then(|metadata| metadata.get("generation")).map(|e| &e.value.value) {
                Some(Value::Int(generation)) => *generation,
                _ => 0,
            };
            let created = text("creationTimestamp").parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
            meta.age = Age(created, name.to_string(), 0);
            Form::Good(Box::new(object))
        }
        None => Form::Ignored,
    };
    let key = ObjectKey { kind, name };
    let problems = flaws
        .into_vec()
        .into_iter()
        .map(|flaw| Problem {
            file: format!("{} {}", kind_name(kind), key.name),
            line: 0,
            column: 0,
            field: flaw.field,
            severity: flaw.severity,
            message: flaw.message,
            object: Some(key.clone()),
        })
        .collect();
    let kubelet = match kind {
        Kind::Node => below(&node, &["status", "nodeInfo"]).and_then(|info| info.text("kubeletVersion")),
        _ => None,
    };
    Ok(Served {
        uid: text("uid").to_owned(),
        resource_version: text("resourceVersion").to_owned(),
        form,
        kubelet: kubelet.map(str::to_owned),
        problems,
        name: key.name,
    })
}

fn below<'a>(node: &'a Node, path: &[&str]) -> Option<&'a Node> {
    path.iter().try_fold(node, |node, key| Some(&node.get(key)?.value))
}

/// Leaves out what nobody asks for: a cluster's objects carry more than their authors wrote.
fn trim(object: &mut Object) {
    let kind = object.kind();
    let meta = meta_mut(object);
    meta.annotations.retain(|key, _| key.starts_with(ANNOTATIONS));
    match kind {
        Kind::Node => meta.labels.retain(|key, _| key.starts_with(NODE_LABELS)),
        // Its Service has been read out of them.
        Kind::EndpointSlice => meta.labels.clear(),
        _ => {}
    }
}

/// JSON has no places: every mark is 0.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Json).map(|value| Self { at: Mark::default(), value })
    }
}

struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // What is too large for Kubernetes' own integers is in no field that Weft reads.
        Ok(Value::Int(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Str(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Str(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element()? {
            out.push(item);
        }
        Ok(Value::Seq(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == "managedFields" {
                entries.next_value::<IgnoredAny>()?;
            } else {
                out.push(Entry { key, at: Mark::default(), value: entries.next_value()? });
            }
        }
        Ok(Value::Map(out))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::model::{EndpointSlice, Pod};

    fn served(kind: Kind, json: &Json) -> Served {
        read(kind, &mut serde_json::Deserializer::from_str(&json.to_string())).unwrap()
    }

    fn good(kind: Kind, json: &Json) -> Object {
        match served(kind, json) {
            Served { form: Form::Good(object), .. } => *object,
            other => panic!("{other:?}"),
        }
    }

    fn pod(patch: &Json) -> Pod {
        let mut json = json!({
            "metadata": {
                "name": "web-5d4-x", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "1970-01-01T00:01:00Z", "labels": {"app": "web", "pod-template-hash": "5d4"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "weft.dev/exclude-inbound-ports": "9"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4", "controller": true}],
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "web",
                "aFieldOfTomorrow": {"x": 18_446_744_073_709_551_615_u64},
                "containers": [
                    {"name": "app", "ports": [{"name": "http", "containerPort": 80}]},
                    {"name": "more", "ports": [{"name": "http", "containerPort": 81}]},
                ],
            },
            "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]},
        });
        json_patch::merge(&mut json, patch);
        let Object::Pod(pod) = good(Kind::Pod, &json) else { panic!("no pod") };
        pod
    }

    #[test]
    fn a_clusters_pod_is_what_the_api_server_says() {
        let ready = pod(&json!({}));
        assert_eq!((ready.ready, ready.terminating, &*ready.owner), (true, false, "web"));
        assert_eq!(ready.meta.age, Age(60, "shop/web-5d4-x".to_owned(), 0));
        assert_eq!(ready.meta.annotations.len(), 1, "those of others are left out: {:?}", ready.meta.annotations);
        assert_eq!(ready.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [80, 81]);
        let rows = [
            ("no conditions yet", json!({"status": {"conditions": null}}), (false, false)),
            ("no status yet", json!({"status": null}), (false, false)),
            ("not ready", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}), (false, false)),
            (
                "the annotation of manifests",
                json!({"metadata": {"annotations": {"weft.dev/terminating": "true"}}}),
                (true, false),
            ),
            ("being deleted", json!({"metadata": {"deletionTimestamp": "1970-01-01T00:02:00Z"}}), (true, true)),
        ];
        for (row, patch, expected) in rows {
            let pod = pod(&patch);
            assert_eq!((pod.ready, pod.terminating), expected, "{row}");
        }
    }

    #[test]
    fn a_node_keeps_its_place_and_a_slice_its_service() {
        let node = json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a", "kubernetes.io/os": "linux"}},
            "status": {"nodeInfo": {"kubeletVersion": "v1.36.1"}},
        });
        assert_eq!(served(Kind::Node, &node).kubelet.as_deref(), Some("v1.36.1"));
        assert_eq!(good(Kind::Node, &node).meta().labels.len(), 1);
        let slice = json!({
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}, "generation": 4},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {}, "targetRef": {"kind": "Pod", "name": "web-1"}}],
        });
        let Object::EndpointSlice(EndpointSlice { meta, service, endpoints, .. }) = good(Kind::EndpointSlice, &slice)
        else {
            panic!("no slice")
        };
        assert_eq!((meta.generation, meta.labels.len(), &*service, endpoints.len()), (4, 0, "web", 1));
        assert!(endpoints[0].ready, "nil is true");
        let mut fqdn = slice;
        fqdn["addressType"] = json!("FQDN");
        assert_eq!(served(Kind::EndpointSlice, &fqdn).form, Form::Ignored);
    }

    #[test]
    fn what_is_wrong_is_named_as_in_a_manifest_and_by_its_object() {
        let route = |rule: Json| {
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "web", "namespace": "shop", "generation": 2},
                "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [rule]},
            })
        };
        let rows: &[(&str, Json, bool, &[&str])] = &[
            ("good", json!({"backendRefs": [{"name": "web", "port": 80}]}), true, &[]),
            (
                "a regular expression that is none: status says so, for the API server did not",
                json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}),
                true,
                &[],
            ),
            (
                "no rule's name",
                json!({"name": "A b"}),
                false,
                &[
                    "HTTPRoute shop/web: spec.rules[0].name: must be a DNS name: at most 253 of a-z, 0-9, `-` and `.`, a letter or digit at both ends of each part",
                ],
            ),
            (
                "not done yet",
                json!({"filters": [{"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP"}}]}),
                true,
                &[
                    "HTTPRoute shop/web: spec.rules[0].filters[0].type: ExternalAuth is not done by this version: requests it applies to answer 500",
                ],
            ),
        ];
        for (row, rule, usable, expected) in rows {
            let served = served(Kind::HttpRoute, &route(rule.clone()));
            assert_eq!(matches!(served.form, Form::Good(_)), *usable, "{row}");
            assert_eq!(served.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), *expected, "{row}");
        }
    }
}
