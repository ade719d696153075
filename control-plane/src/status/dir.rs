//! `--status-dir`: status as files, where there is no API server to write it to.
//!
//! `HTTPRoute.NAMESPACE.NAME.yaml` (`GRPCRoute.…`) holds what `kubectl get httproute NAME -o yaml` would show of a route's status;
//! `problems.txt` (a line each) and `problems.json` hold what is wrong with the manifests now. A file is written beside
//! its place and renamed into it, so that a reader sees the old or the new, and only when its content changes.
//!
//! `lastTransitionTime` moves when a condition's `status` does; across restarts it is read back from the files.
//! Bound: what is on disk, held in memory once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{CONTROLLER_NAME, RouteStatus};
use crate::model::{Kind, ObjectKey, ParentRef};
use crate::source::{Problem, kind_name};

/// The kinds that have a status.
const ROUTES: [Kind; 6] =
    [Kind::GrpcRoute, Kind::HttpRoute, Kind::TlsRoute, Kind::TcpRoute, Kind::BackendTlsPolicy, Kind::TrafficPolicy];

const PROBLEMS_TEXT: &str = "problems.txt";
const PROBLEMS_JSON: &str = "problems.json";

/// Why status could not be written. What the file held before is still there.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The directory cannot be made or listed.
    #[error("cannot use the status directory {}: {source} (--status-dir names a directory that Weft may write to)", .path.display())]
    Directory {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One file cannot be written or removed.
    #[error("cannot write status file {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A status has no form as YAML or JSON.
    #[error("cannot encode status file {}: {reason}", .path.display())]
    Encode {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The writer. Its calls block on the file system: small files, written seldom.
#[derive(Debug)]
pub struct StatusDir {
    directory: PathBuf,
    /// What was last written (or found) by file name.
    files: BTreeMap<String, Written>,
}

#[derive(Debug, Default)]
struct Written {
    text: String,
    transitions: Transitions,
}

/// Status and time by parent and type of condition.
type Transitions = Vec<(ParentRef, String, bool, String)>;

/// A route's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteFile {
    api_version: String,
    kind: String,
    metadata: MetadataForm,
    status: StatusForm,
}

#[derive(Serialize, Deserialize)]
struct MetadataForm {
    name: String,
    namespace: String,
}

#[derive(Serialize, Deserialize)]
struct StatusForm {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parents: Vec<ParentForm>,
    /// Of a policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ancestors: Vec<AncestorForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AncestorForm {
    ancestor_ref: ParentRef,
    controller_name: String,
    conditions: Vec<ConditionForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParentForm {
    parent_ref: ParentRef,
    controller_name: String,
    conditions: Vec<ConditionForm>,
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
struct ConditionForm {
    r#type: String,
    /// `True` or `False`, text as in Kubernetes.
    status: String,
    reason: String,
    message: String,
    observed_generation: i64,
    last_transition_time: String,
}

#[derive(Serialize)]
struct ProblemForm<'a> {
    severity: String,
    file: &'a str,
    line: u32,
    column: u32,
    field: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<ObjectForm<'a>>,
}

#[derive(Serialize)]
struct ObjectForm<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    name: &'a str,
}

impl StatusDir {
    /// Opens the directory, makes it where it is missing, and reads what is there.
    ///
    /// # Errors
    /// Where it cannot be made or listed.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StatusError> {
        let directory = directory.into();
        let listed = fs::create_dir_all(&directory)
            .and_then(|()| fs::read_dir(&directory))
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
        let names = listed.map_err(|source| StatusError::Directory { path: directory.clone(), source })?;
        let mut files = BTreeMap::new();
        for name in names.iter().filter_map(|name| name.to_str()) {
            let path = directory.join(name);
            // Left behind by a writer that was killed.
            if is_temporary(name) {
                let _ = fs::remove_file(&path);
            }
            // A file that cannot be read, or not as ours, has nothing to keep: it will be written anew.
            if is_ours(name)
                && let Ok(text) = fs::read_to_string(&path)
            {
                let transitions = transitions_of(&text);
                files.insert(name.to_owned(), Written { text, transitions });
            }
        }
        Ok(Self { directory, files })
    }

    /// Writes the status of a route; whether anything changed. `now` is what a changed condition is dated.
    ///
    /// # Errors
    /// Where the file cannot be written; it is tried again by the next call.
    pub fn set_route(&mut self, key: &ObjectKey, status: &RouteStatus, now: SystemTime) -> Result<bool, StatusError> {
        let file = route_file(key);
        let before = self.files.get(&file).map(|written| written.transitions.as_slice()).unwrap_or_default();
        let now = rfc3339(now);
        let mut transitions = Transitions::new();
        let mut parents = Vec::new();
        for parent in &status.parents {
            let mut conditions = Vec::new();
            for condition in &parent.conditions {
                let since = before.iter().find(|(parent_ref, kind, status, _)| {
                    *parent_ref == parent.parent_ref && kind == condition.kind && *status == condition.status
                });
                let since = since.map_or_else(|| now.clone(), |(.., time)| time.clone());
                transitions.push((
                    parent.parent_ref.clone(),
                    condition.kind.to_owned(),
                    condition.status,
                    since.clone(),
                ));
                conditions.push(ConditionForm {
                    r#type: condition.kind.to_owned(),
                    status: if condition.status { "True" } else { "False" }.to_owned(),
                    reason: condition.reason.to_string(),
                    message: condition.message.clone(),
                    observed_generation: condition.observed_generation,
                    last_transition_time: since,
                });
            }
            parents.push(ParentForm {
                parent_ref: parent.parent_ref.clone(),
                controller_name: CONTROLLER_NAME.to_owned(),
                conditions,
            });
        }
        let status = match key.kind {
            Kind::BackendTlsPolicy | Kind::TrafficPolicy => {
                StatusForm { parents: Vec::new(), ancestors: parents.into_iter().map(AncestorForm::from).collect() }
            }
            _ => StatusForm { parents, ancestors: Vec::new() },
        };
        let form = RouteFile {
            api_version: match key.kind {
                Kind::TrafficPolicy => "gateway.networking.x-k8s.io/v1alpha1".to_owned(),
                _ => "gateway.networking.k8s.io/v1".to_owned(),
            },
            kind: kind_name(key.kind).to_owned(),
            metadata: MetadataForm { name: key.name.name.clone(), namespace: key.name.namespace.clone() },
            status,
        };
        let text = serde_saphyr::to_string(&form)
            .map_err(|error| StatusError::Encode { path: self.directory.join(&file), reason: error.to_string() })?;
        self.write(file, Written { text, transitions })
    }

    /// Removes the status of a route that is gone, or is not ours any more; whether there was one.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn remove_route(&mut self, key: &ObjectKey) -> Result<bool, StatusError> {
        self.remove(&route_file(key))
    }

    /// Removes the status of all routes but these: what went while nobody was watching. How many.
    ///
    /// # Errors
    /// Where a file cannot be removed.
    pub fn retain_routes<'a>(&mut self, routes: impl IntoIterator<Item = &'a ObjectKey>) -> Result<usize, StatusError> {
        let keep: BTreeSet<String> = routes.into_iter().map(route_file).collect();
        let gone: Vec<String> =
            self.files.keys().filter(|file| is_route(file) && !keep.contains(*file)).cloned().collect();
        for file in &gone {
            self.remove(file)?;
        }
        Ok(gone.len())
    }

    /// Writes down what is wrong now; whether anything changed.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn set_problems(&mut self, problems: &[Problem]) -> Result<bool, StatusError> {
        let lines: String = problems.iter().map(|problem| format!("{}: {problem}\n", problem.severity)).collect();
        let forms: Vec<_> = problems.iter().map(problem_form).collect();
        let mut json = serde_json::to_string_pretty(&forms).map_err(|error| StatusError::Encode {
            path: self.directory.join(PROBLEMS_JSON),
            reason: error.to_string(),
        })?;
        json.push('\n');
        let text = self.write(PROBLEMS_TEXT.to_owned(), Written { text: lines, ..Written::default() })?;
        let json = self.write(PROBLEMS_JSON.to_owned(), Written { text: json, ..Written::default() })?;
        Ok(text || json)
    }

    fn write(&mut self, file: String, written: Written) -> Result<bool, StatusError> {
        if self.files.get(&file).is_some_and(|before| before.text == written.text) {
            return Ok(false);
        }
        let path = self.directory.join(&file);
        let temporary = self.directory.join(format!(".{file}.tmp"));
        fs::write(&temporary, &written.text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| StatusError::File { path, source })?;
        self.files.insert(file, written);
        Ok(true)
    }

    fn remove(&mut self, file: &str) -> Result<bool, StatusError> {
        let path: PathBuf = self.directory.join(file);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StatusError::File { path, source }),
            result => {
                self.files.remove(file);
                Ok(result.is_ok())
            }
        }
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

fn problem_form(problem: &Problem) -> ProblemForm<'_> {
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

/// `KIND.NAMESPACE.NAME.yaml`. A namespace has no dot, so that no two routes share a file, and neither has a slash.
fn route_file(key: &ObjectKey) -> String {
    format!("{}.{}.{}.yaml", kind_name(key.kind), key.name.namespace, key.name.name)
}

fn is_route(file: &str) -> bool {
    let of =
        |kind| file.strip_prefix(kind_name(kind)).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".yaml"));
    ROUTES.into_iter().any(of)
}

fn is_ours(file: &str) -> bool {
    is_route(file) || matches!(file, PROBLEMS_TEXT | PROBLEMS_JSON)
}

fn is_temporary(file: &str) -> bool {
    file.strip_prefix('.').and_then(|file| file.strip_suffix(".tmp")).is_some_and(is_ours)
}

fn transitions_of(text: &str) -> Transitions {
    let Ok(form) = serde_saphyr::from_str::<RouteFile>(text) else { return Vec::new() };
    let ancestors = form.status.ancestors.into_iter().map(ParentForm::from);
    let conditions = form.status.parents.into_iter().chain(ancestors).flat_map(|parent| {
        let parent_ref = parent.parent_ref;
        parent.conditions.into_iter().map(move |condition| {
            (parent_ref.clone(), condition.r#type, condition.status == "True", condition.last_transition_time)
        })
    });
    conditions.collect()
}

/// `2026-01-31T23:59:59Z`, as `metav1.Time` is written.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::ObjectName;
    use crate::source::Severity;
    use crate::status::{Condition, ParentStatus};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn status(accepted: bool, resolved: bool, generation: i64) -> RouteStatus {
        let condition = |kind, status, message: &str| Condition {
            kind,
            status,
            reason: if status { kind } else { "Not: \"so\"" }.into(),
            message: message.to_owned(),
            observed_generation: generation,
        };
        let parent_ref = ParentRef {
            group: Some(String::new()),
            kind: Some("Service".into()),
            namespace: None,
            name: "reviews".into(),
            section_name: None,
            port: Some(80),
        };
        RouteStatus {
            parents: vec![ParentStatus {
                parent_ref,
                conditions: vec![
                    condition("Accepted", accepted, ""),
                    condition("ResolvedRefs", resolved, "a: b # c\nd"),
                ],
            }],
        }
    }

    fn key(kind: Kind) -> ObjectKey {
        ObjectKey { kind, name: ObjectName::new("default", "reviews") }
    }

    /// Types and times of the conditions on disk.
    fn times(directory: &Path) -> Vec<(String, String, i64, String)> {
        let text = fs::read_to_string(directory.join("HTTPRoute.default.reviews.yaml")).unwrap();
        let form: RouteFile = serde_saphyr::from_str(&text).unwrap();
        let conditions = form.status.parents.into_iter().flat_map(|parent| parent.conditions);
        conditions.map(|c| (c.r#type, c.status, c.observed_generation, c.last_transition_time)).collect()
    }

    #[test]
    fn a_transition_time_moves_only_with_its_status_even_across_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let row = |kind: &str, status: &str, generation, time: &str| {
            (kind.to_owned(), status.to_owned(), generation, format!("1970-01-01T00:00:{time}Z"))
        };
        let mut writer = StatusDir::open(directory.path()).unwrap();
        assert!(writer.set_route(&key(Kind::HttpRoute), &status(true, false, 1), at(1)).unwrap());
        assert_eq!(times(directory.path()), [row("Accepted", "True", 1, "01"), row("ResolvedRefs", "False", 1, "01")]);

        assert!(!writer.set_route(&key(Kind::HttpRoute), &status(true, false, 1), at(2)).unwrap(), "nothing changed");

        assert!(writer.set_route(&key(Kind::HttpRoute), &status(true, true, 2), at(3)).unwrap());
        assert_eq!(times(directory.path()), [row("Accepted", "True", 2, "01"), row("ResolvedRefs", "True", 2, "03")]);

        let mut writer = StatusDir::open(directory.path()).unwrap();
        assert!(!writer.set_route(&key(Kind::HttpRoute), &status(true, true, 2), at(4)).unwrap(), "nothing changed");
        assert!(writer.set_route(&key(Kind::HttpRoute), &status(false, true, 2), at(5)).unwrap());
        assert_eq!(times(directory.path()), [row("Accepted", "False", 2, "05"), row("ResolvedRefs", "True", 2, "03")]);
    }

    #[test]
    fn a_status_reads_as_kubectl_would_show_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = StatusDir::open(directory.path().join("made/on/the/way")).unwrap();
        writer.set_route(&key(Kind::HttpRoute), &status(true, true, 7), at(86_399)).unwrap();
        let text = fs::read_to_string(writer.directory().join("HTTPRoute.default.reviews.yaml")).unwrap();
        for line in [
            "kind: HTTPRoute",
            "controllerName: weft.dev/mesh-controller",
            "lastTransitionTime: \"1970-01-01T23:59:59Z\"",
            "observedGeneration: 7",
            "sectionName",
        ] {
            assert_eq!(text.contains(line), line != "sectionName", "{line} in\n{text}");
        }
        // Text to whoever reads YAML 1.1, where True is a boolean.
        assert!(text.contains("status: \"True\"") || text.contains("status: 'True'"), "{text}");
    }

    #[test]
    fn files_go_with_their_routes_and_foreign_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let has = |file: &str| directory.path().join(file).exists();
        fs::write(directory.path().join("notes.yaml"), "mine").unwrap();
        fs::write(directory.path().join("HTTPRoute.default.old.yaml"), "broken: [").unwrap();
        fs::write(directory.path().join(".HTTPRoute.default.old.yaml.tmp"), "").unwrap();
        let mut writer = StatusDir::open(directory.path()).unwrap();
        assert!(!has(".HTTPRoute.default.old.yaml.tmp"));
        writer.set_route(&key(Kind::HttpRoute), &status(true, true, 1), at(1)).unwrap();
        assert_eq!(writer.retain_routes([&key(Kind::HttpRoute)]).unwrap(), 1);
        assert!(has("notes.yaml") && has("HTTPRoute.default.reviews.yaml") && !has("HTTPRoute.default.old.yaml"));
        writer.set_route(&key(Kind::GrpcRoute), &status(true, true, 1), at(1)).unwrap();
        assert!(has("GRPCRoute.default.reviews.yaml"), "a kind of its own, a file of its own");
        let policy = key(Kind::BackendTlsPolicy);
        assert!(writer.set_route(&policy, &status(true, true, 1), at(1)).unwrap());
        let written = fs::read_to_string(directory.path().join("BackendTLSPolicy.default.reviews.yaml")).unwrap();
        assert!(written.contains("ancestors:") && written.contains("ancestorRef:") && !written.contains("parents:"));
        assert!(!StatusDir::open(directory.path()).unwrap().set_route(&policy, &status(true, true, 1), at(2)).unwrap());
        assert!(writer.remove_route(&policy).unwrap());
        let policy = key(Kind::TrafficPolicy);
        writer.set_route(&policy, &status(true, true, 1), at(1)).unwrap();
        let written = fs::read_to_string(directory.path().join("XBackendTrafficPolicy.default.reviews.yaml")).unwrap();
        assert!(
            written.contains("gateway.networking.x-k8s.io/v1alpha1") && written.contains("ancestorRef:"),
            "{written}"
        );
        assert!(writer.remove_route(&policy).unwrap());
        assert!(writer.remove_route(&key(Kind::HttpRoute)).unwrap());
        assert!(!writer.remove_route(&key(Kind::HttpRoute)).unwrap());
        assert!(!has("HTTPRoute.default.reviews.yaml") && has("GRPCRoute.default.reviews.yaml"));
        assert_eq!(writer.retain_routes([]).unwrap(), 1);
    }

    #[test]
    fn problems_are_listed_for_people_and_for_programs() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = StatusDir::open(directory.path()).unwrap();
        let problem = Problem {
            file: "reviews.yaml".into(),
            line: 14,
            column: 7,
            field: "spec.rules[0].backendRefs[0].weight".into(),
            severity: Severity::Error,
            message: "must be between 0 and 1000000".into(),
            object: Some(key(Kind::HttpRoute)),
        };
        assert!(writer.set_problems(std::slice::from_ref(&problem)).unwrap());
        assert!(!writer.set_problems(&[problem]).unwrap());
        let read = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap();
        assert_eq!(
            read("problems.txt"),
            "error: reviews.yaml:14: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000\n"
        );
        let json: serde_json::Value = serde_json::from_str(&read("problems.json")).unwrap();
        assert_eq!(json[0]["line"], 14);
        assert_eq!(json[0]["object"]["name"], "reviews");
        assert!(writer.set_problems(&[]).unwrap());
        assert_eq!((read("problems.txt").as_str(), read("problems.json").as_str()), ("", "[]\n"));
    }
}
