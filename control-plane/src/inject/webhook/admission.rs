//! An AdmissionReview in, an AdmissionReview out. Pure.
//!
//! It is read in two steps. [`Question::read`] keeps the bytes and learns where the pod is to be; [`Question::decide`] parses the
//! rest once that namespace is known. So what is parsed is not held while the API server is asked, which is what bounds memory:
//! `{},` of a review becomes a container of three kilobytes. Bound: [`MAX_VALUES`].

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, Operation};
use serde::Deserialize;
use serde::de::IgnoredAny;
use weft_proto::ProbeSecret;

use super::super::{ClusterFacts, Context, InjectSettings, Outcome, patch, to_json, values};
use super::Labelled;

/// API servers cut longer ones off, and drop all beyond some 4 KiB in total.
const MAX_WARNING: usize = 256;
/// Of objects that are not enforced.
const MAX_NAMED: usize = 5;

/// Values in a review: a pod of a thousand environment variables has some seven thousand, field owners included.
const MAX_VALUES: usize = 12 << 10;

/// A review that can be answered.
#[derive(Debug)]
pub(super) struct Question {
    review: Bytes,
    namespace: Option<String>,
}

/// What must be known of a review at first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    resource: Resource,
    sub_resource: Option<String>,
    namespace: Option<String>,
    operation: Operation,
    object: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// An answer as it is sent, and a word for it.
pub(super) struct Answer {
    pub(super) result: &'static str,
    pub(super) body: Vec<u8>,
}

impl Question {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(review: Bytes) -> Result<Self, String> {
        let values = values_in(&review);
        if values > MAX_VALUES {
            return Err(format!("it has some {values} values, and {MAX_VALUES} at most are read"));
        }
        let head: Head = serde_json::from_slice(&review).map_err(|error| error.to_string())?;
        if head.api_version != META_API_VERSION_V1 {
            return Err(format!("it is of {}", head.api_version.chars().take(64).collect::<String>()));
        }
        let namespace = head.request.ok_or("there is no request in it")?.namespace();
        // It becomes part of a path.
        match &namespace {
            Some(name) if !values::is_label(name) => Err(format!("`{}` names no namespace", values::shortened(name))),
            _ => Ok(Self { review, namespace }),
        }
    }

    /// The namespace of the pod that is to be made, if that is what is asked about.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// What becomes of the pod; yes, as it is, where `namespace` is none because it is not asked about a new pod. `probe_secret` is
    /// one of its own.
    ///
    /// # Errors
    /// What is wrong with the review.
    pub(super) fn decide(
        self,
        namespace: Option<Labelled>,
        probe_secret: ProbeSecret,
        cluster: ClusterFacts,
        settings: &InjectSettings,
        unenforced: &BTreeMap<String, Vec<String>>,
    ) -> Result<Answer, String> {
        let review: AdmissionReview<DynamicObject> =
            serde_json::from_slice(&self.review).map_err(|error| error.to_string())?;
        let request: AdmissionRequest<DynamicObject> =
            review.try_into().map_err(|_| "there is no request in it".to_owned())?;
        let response = AdmissionResponse::from(&request);
        let (Some(name), Some(namespace)) = (self.namespace, namespace) else {
            return Ok(finish("not-a-new-pod", response));
        };
        let Some(pod) = request.object.and_then(|object| object.try_parse::<Pod>().ok()) else {
            // The API server has read it, so it is newer than we are in a way that we cannot pass over.
            let why = "weft: the pod cannot be read; is the control plane older than the API server?";
            return Ok(refuse(response, why));
        };
        let of_mesh = [&name, &settings.namespace].map(|namespace| unenforced.get(namespace));
        let context = Context {
            namespace: name,
            labels: namespace.labels,
            annotations: namespace.annotations,
            cluster,
            of_job: false,
            probe_secret,
        };
        Ok(match patch(&pod, &context, settings) {
            Err(refusal) => refuse(response, &format!("weft: {refusal}")),
            Ok(Outcome::LeftAlone(why)) => finish(why.reason(), warned(response, why.warning().into_iter().collect())),
            Ok(Outcome::Injected(injection)) => {
                let mut warnings = injection.warnings;
                warnings.extend(not_enforced(of_mesh.into_iter().flatten().flatten()));
                match warned(response.clone(), warnings).with_patch(injection.patch) {
                    Ok(response) => finish("injected", response),
                    Err(error) => refuse(response, &format!("weft: {error}")),
                }
            }
        })
    }
}

impl Request {
    /// The namespace of the pod that is to be made, if that is what is asked about.
    fn namespace(self) -> Option<String> {
        let pods = self.resource.group.is_empty() && self.resource.resource == "pods";
        let whole = self.sub_resource.as_deref().unwrap_or_default().is_empty();
        if !pods || !whole || self.operation != Operation::Create || self.object.is_none() {
            return None;
        }
        self.namespace.filter(|name| !name.is_empty())
    }
}

/// No less than the values in `json` that are an element or a member: before each is one of these.
fn values_in(json: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

fn refuse(response: AdmissionResponse, why: &str) -> Answer {
    let mut response = response.deny(why);
    response.result.code = 403;
    finish("refused", response)
}

fn warned(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    let short = |warning: String| match warning.char_indices().nth(MAX_WARNING - 1) {
        Some((end, _)) => format!("{}…", &warning[..end]),
        None => warning,
    };
    if !warnings.is_empty() {
        response.warnings = Some(warnings.into_iter().map(short).collect());
    }
    response
}

/// Security objects of the pod's namespace, and of the whole mesh, that do nothing in this version: somebody counts on them.
fn not_enforced<'a>(objects: impl Iterator<Item = &'a String> + Clone) -> Vec<String> {
    let more = objects.clone().count().saturating_sub(MAX_NAMED);
    let mut warnings: Vec<_> = objects
        .take(MAX_NAMED)
        .map(|object| format!("weft: {object} is NOT enforced by this version of Weft"))
        .collect();
    if more > 0 {
        warnings.push(format!("weft: {more} more such objects are NOT enforced; `weft check` lists them"));
    }
    warnings
}

fn finish(result: &'static str, mut response: AdmissionResponse) -> Answer {
    // As API servers write bytes. kube's type would write a list of numbers, which they read as well, at three times the size.
    let patch = response.patch.take().map(|patch| base64::engine::general_purpose::STANDARD.encode(patch));
    let mut review = to_json(&response.into_review());
    if let Some(patch) = patch {
        review["response"]["patch"] = patch.into();
    }
    Answer { result, body: review.to_string().into_bytes() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Volume};

    use super::*;

    #[test]
    fn values_are_counted_where_they_are_no_text() {
        #[rustfmt::skip]
        let rows = [
            ("",                            0),
            ("1",                           0),
            ("[]",                          1),
            (r#"{"a": [1, 2, {}], "b": 3}"#, 6),
            (r#"["a,b", "[{", "\\", ","]"#, 4),
            (r#"["\",[{,", 1]"#,            2),
            (r#"\",,,"#,                    0),
        ];
        for (json, count) in rows {
            assert_eq!(values_in(json.as_bytes()), count, "{json}");
        }
    }

    /// A list that grows holds three times its length at worst: the old one, and the new one of twice its size.
    #[test]
    fn a_review_of_the_most_values_stays_below_a_limit_parsed() {
        let largest = [size_of::<Volume>(), size_of::<Container>(), size_of::<EphemeralContainer>()];
        let largest = largest.into_iter().max().unwrap();
        assert!(3 * MAX_VALUES * largest <= 128 << 20, "{largest}");
    }
}
