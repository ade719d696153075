//! What a check found: one line for people, with what mends it.

use serde::Serialize;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Well.
    Ok,
    /// Works, and worth knowing.
    Warning,
    /// Wrong.
    Error,
}

/// What it is about; findings are printed in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// The cluster.
    Kubernetes,
    /// What is there before an installation.
    Installation,
    /// The control plane.
    ControlPlane,
    /// The mesh's root.
    Identity,
    /// The webhook.
    Injection,
    /// Pods.
    Workloads,
    /// Routes and policies.
    Objects,
}

impl Group {
    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Group::Kubernetes => "Kubernetes",
            Group::Installation => "Installation",
            Group::ControlPlane => "Control plane",
            Group::Identity => "Identity",
            Group::Injection => "Injection",
            Group::Workloads => "Workloads",
            Group::Objects => "Objects",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) group: Group,
    /// The check's name, for programs.
    pub(crate) check: &'static str,
    /// How bad.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) what: String,
    /// More lines about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
    /// What to do: often a command to copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl Finding {
    /// Well.
    pub(crate) fn ok(group: Group, check: &'static str, what: impl Into<String>) -> Self {
        Self { group, check, level: Level::Ok, what: what.into(), details: Vec::new(), fix: None }
    }

    /// Worth knowing.
    pub(crate) fn warning(group: Group, check: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(group, check, what) }
    }

    /// Wrong.
    pub(crate) fn error(group: Group, check: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::ok(group, check, what) }
    }

    /// A fact that could not be had: worth knowing, since nothing was found wrong.
    pub(crate) fn unknown(group: Group, check: &'static str, what: &str, why: &str) -> Self {
        Self::warning(group, check, format!("cannot look at {what}: {why}"))
            .fix("ask for the permission to read it, or have somebody run `weft check` who has it")
    }

    /// What to do.
    pub(crate) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// More lines.
    pub(crate) fn details(self, details: impl IntoIterator<Item = String>) -> Self {
        Self { details: details.into_iter().collect(), ..self }
    }
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Whether nothing is wrong.
    pub(crate) ok: bool,
    /// How many errors.
    pub(crate) errors: usize,
    /// How many warnings.
    pub(crate) warnings: usize,
    /// By group.
    pub(crate) checks: Vec<Finding>,
}

impl Report {
    /// Of these findings.
    pub(crate) fn new(mut checks: Vec<Finding>) -> Self {
        // Stable: within a group they stay as they come.
        checks.sort_by_key(|finding| finding.group);
        let count = |level| checks.iter().filter(|finding| finding.level == level).count();
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        Self { ok: errors == 0, errors, warnings, checks }
    }

    /// The first error, in a line.
    pub(crate) fn first_error(&self) -> &str {
        self.checks.iter().find(|finding| finding.level == Level::Error).map_or("nothing is wrong", |f| &f.what)
    }
}

/// The first few of `items`, the rest counted.
pub(crate) fn some(items: &[String], most: usize) -> String {
    let named = items.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(most) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// `1 pod`, `2 pods`.
pub(crate) fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}
