//! The forms in which status is written to files, and what of them is read back.

use serde::{Deserialize, Serialize};

use crate::model::{Kind, ObjectKey, ParentRef};
use crate::source::{Problem, kind_name};
use crate::status::{CONTROLLER_NAME, Condition, ParentStatus, RouteStatus};

/// Status and time by parent, which Weft's own kinds have none of, and type of condition.
pub(super) type Transitions = Vec<(Option<ParentRef>, String, bool, String)>;

/// An object's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusFile {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) metadata: MetadataForm,
    pub(super) status: StatusForm,
}

#[derive(Serialize, Deserialize)]
pub(super) struct MetadataForm {
    pub(super) name: String,
    pub(super) namespace: String,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct StatusForm {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parents: Vec<ParentForm>,
    /// Of a policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ancestors: Vec<AncestorForm>,
    /// Of a kind of Weft's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) conditions: Vec<ConditionForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AncestorForm {
    pub(super) ancestor_ref: ParentRef,
    pub(super) controller_name: String,
    pub(super) conditions: Vec<ConditionForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParentForm {
    pub(super) parent_ref: ParentRef,
    pub(super) controller_name: String,
    pub(super) conditions: Vec<ConditionForm>,
}

impl From<ParentForm> for AncestorForm {
    fn from(form: ParentForm) -> Self {
        let ParentForm { parent_ref, controller_name, conditions } = form;
        Self { ancestor_ref: parent_ref, controller_name, conditions }
    }
}

impl From<AncestorForm> for ParentForm {
    fn from(form: AncestorForm) -> Self {
        let AncestorForm { ancestor_ref, controller_name, conditions } = form;
        Self { parent_ref: ancestor_ref, controller_name, conditions }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConditionForm {
    pub(super) r#type: String,
    /// `True` or `False`, text as in Kubernetes.
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) observed_generation: i64,
    pub(super) last_transition_time: String,
}

#[derive(Serialize)]
pub(super) struct ProblemForm<'a> {
    pub(super) severity: String,
    pub(super) file: &'a str,
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) field: &'a str,
    pub(super) message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<ObjectForm<'a>>,
}

#[derive(Serialize)]
pub(super) struct ObjectForm<'a> {
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

pub(super) fn problem_form(problem: &Problem) -> ProblemForm<'_> {
    ProblemForm {
        severity: problem.severity.to_string(),
        file: &problem.file,
        line: problem.line,
        column: problem.column,
        field: &problem.field,
        message: &problem.message,
        object: problem.object.as_ref().map(|key| ObjectForm {
            kind: kind_name(key.kind),
            namespace: &key.name.namespace,
            name: &key.name.name,
        }),
    }
}

/// Dates conditions: those that were as they are keep their time.
pub(super) struct Dates<'a> {
    /// As it was.
    pub(super) before: &'a [(Option<ParentRef>, String, bool, String)],
    /// Of whatever changed.
    pub(super) now: String,
    /// As it is.
    pub(super) after: Transitions,
}

impl Dates<'_> {
    fn conditions(&mut self, parent: Option<&ParentRef>, conditions: &[Condition]) -> Vec<ConditionForm> {
        let mut forms = Vec::with_capacity(conditions.len());
        for condition in conditions {
            let same = |(of, kind, status, _): &&(Option<ParentRef>, String, bool, String)| {
                of.as_ref() == parent && kind == condition.kind && *status == condition.status
            };
            let since = self.before.iter().find(same).map_or(&self.now, |(.., time)| time).clone();
            self.after.push((parent.cloned(), condition.kind.to_owned(), condition.status, since.clone()));
            forms.push(ConditionForm {
                r#type: condition.kind.to_owned(),
                status: if condition.status { "True" } else { "False" }.to_owned(),
                reason: condition.reason.to_string(),
                message: condition.message.clone(),
                observed_generation: condition.observed_generation,
                last_transition_time: since,
            });
        }
        forms
    }
}

/// A route, or a policy of the Gateway API.
pub(super) fn route(key: &ObjectKey, status: &RouteStatus, dates: &mut Dates<'_>) -> StatusFile {
    let parent = |parent: &ParentStatus| ParentForm {
        parent_ref: parent.parent_ref.clone(),
        controller_name: CONTROLLER_NAME.to_owned(),
        conditions: dates.conditions(Some(&parent.parent_ref), &parent.conditions),
    };
    let parents: Vec<_> = status.parents.iter().map(parent).collect();
    let status = match key.kind {
        Kind::BackendTlsPolicy | Kind::TrafficPolicy => {
            StatusForm { ancestors: parents.into_iter().map(AncestorForm::from).collect(), ..StatusForm::default() }
        }
        _ => StatusForm { parents, ..StatusForm::default() },
    };
    let api_version = match key.kind {
        Kind::TrafficPolicy => "gateway.networking.x-k8s.io/v1alpha1",
        _ => "gateway.networking.k8s.io/v1",
    };
    file(api_version, key, status)
}

/// An object of a kind of Weft's own.
pub(super) fn own(key: &ObjectKey, condition: &Condition, dates: &mut Dates<'_>) -> StatusFile {
    let conditions = dates.conditions(None, std::slice::from_ref(condition));
    file("weft.dev/v1alpha1", key, StatusForm { conditions, ..StatusForm::default() })
}

fn file(api_version: &str, key: &ObjectKey, status: StatusForm) -> StatusFile {
    StatusFile {
        api_version: api_version.to_owned(),
        kind: kind_name(key.kind).to_owned(),
        metadata: MetadataForm { name: key.name.name.clone(), namespace: key.name.namespace.clone() },
        status,
    }
}

/// What a file says of times; nothing where it is none of ours.
pub(super) fn transitions_of(text: &str) -> Transitions {
    let Ok(form) = serde_saphyr::from_str::<StatusFile>(text) else { return Vec::new() };
    let ancestors = form.status.ancestors.into_iter().map(ParentForm::from);
    let of_parents = form.status.parents.into_iter().chain(ancestors);
    let of_parents = of_parents.map(|parent| (Some(parent.parent_ref), parent.conditions));
    let all = of_parents.chain([(None, form.status.conditions)]);
    let conditions = all.flat_map(|(parent, conditions)| {
        conditions.into_iter().map(move |condition| {
            (parent.clone(), condition.r#type, condition.status == "True", condition.last_transition_time)
        })
    });
    conditions.collect()
}
