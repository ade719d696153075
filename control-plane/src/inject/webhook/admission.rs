//! An AdmissionReview in, an AdmissionReview out. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, Operation};
use weft_proto::ProbeSecret;

use super::super::{ClusterFacts, Context, InjectSettings, Outcome, patch, to_json};
use super::Labelled;

/// API servers cut longer ones off, and drop all beyond some 4 KiB in total.
const MAX_WARNING: usize = 256;
/// Of objects that are not enforced.
const MAX_NAMED: usize = 5;

/// A review that can be answered.
pub(super) struct Question {
    request: AdmissionRequest<DynamicObject>,
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
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if review.types.api_version != META_API_VERSION_V1 {
            return Err(format!("it is of {}", review.types.api_version.chars().take(64).collect::<String>()));
        }
        let request = review.try_into().map_err(|_| "there is no request in it".to_owned())?;
        Ok(Self { request })
    }

    /// The namespace of the pod that is to be made, if that is what is asked about.
    pub(super) fn namespace(&self) -> Option<&str> {
        let request = &self.request;
        let pods = request.resource.group.is_empty() && request.resource.resource == "pods";
        let whole = request.sub_resource.as_deref().unwrap_or_default().is_empty();
        if !pods || !whole || request.operation != Operation::Create || request.object.is_none() {
            return None;
        }
        request.namespace.as_deref().filter(|name| !name.is_empty())
    }

    /// Yes, as it is.
    pub(super) fn nothing_to_do(&self) -> Answer {
        finish("not-a-new-pod", AdmissionResponse::from(&self.request))
    }

    /// What becomes of the pod. `probe_secret` is one of its own.
    pub(super) fn decide(
        &self,
        namespace: Labelled,
        probe_secret: ProbeSecret,
        cluster: ClusterFacts,
        settings: &InjectSettings,
        unenforced: &BTreeMap<String, Vec<String>>,
    ) -> Answer {
        let response = AdmissionResponse::from(&self.request);
        let name = self.request.namespace.clone().unwrap_or_default();
        let Some(pod) = self.request.object.clone().and_then(|object| object.try_parse::<Pod>().ok()) else {
            // The API server has read it, so it is newer than we are in a way that we cannot pass over.
            return refuse(response, "weft: the pod cannot be read; is the control plane older than the API server?");
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
        match patch(&pod, &context, settings) {
            Err(refusal) => refuse(response, &format!("weft: {refusal}")),
            Ok(Outcome::LeftAlone(why)) => finish(why.reason(), warned(response, why.warning().into_iter().collect())),
            Ok(Outcome::Injected(injection)) => {
                let mut warnings = injection.warnings;
                warnings.extend(not_enforced(of_mesh.into_iter().flatten().flatten()));
                match warned(response, warnings).with_patch(injection.patch) {
                    Ok(response) => finish("injected", response),
                    Err(error) => refuse(AdmissionResponse::from(&self.request), &format!("weft: {error}")),
                }
            }
        }
    }
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
