//! `weft identity status|rotate`: the mesh's root and its rotation.
//!
//! All there is to see is the annotations of Secret `weft-ca`, asked for as metadata only, and the ConfigMaps that tell pods
//! whom to trust; so this program never holds the root's key. Rotating is one annotation; the control plane does the rest.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;
use weft_control_plane::identity::{ROOTS_CONFIG_MAP, ROOTS_KEY, ROTATE, SECRET};

use crate::args::{RotateArgs, StatusArgs, Target};
use crate::cluster::Cluster;
use crate::duration;
use crate::error::Error;
use crate::output::{self, Colours, Format, Paint, Table};
use crate::roots::{self, EXPIRES_SOON, Root};
use crate::seen::{Seen, list};

mod rotation;

pub(crate) use rotation::Rotation;

/// As whom we write.
const FIELD_MANAGER: &str = "weft";
/// Between two looks with `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// What `identity status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Status {
    /// `namespace/name` of the Secret.
    secret: String,
    rotation: Rotation,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    /// The one that signs first.
    roots: Vec<Shown>,
    /// Why there are none to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    roots_unknown: Option<String>,
}

/// A root with its role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Shown {
    role: &'static str,
    #[serde(flatten)]
    root: Root,
}

/// `weft identity status`.
///
/// # Errors
/// When the Secret cannot be seen.
pub(crate) async fn status(target: &Target, args: &StatusArgs) -> Result<ExitCode, Error> {
    let cluster = Cluster::of(target).await?;
    if args.watch {
        return watch(&cluster, target, args.output.output).await;
    }
    let status = look(&cluster, target).await?;
    print(&status, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

/// `weft identity rotate`.
///
/// # Errors
/// When the Secret cannot be seen or written, or a rotation is under way.
pub(crate) async fn rotate(target: &Target, args: &RotateArgs) -> Result<ExitCode, Error> {
    let cluster = Cluster::of(target).await?;
    let namespace = &target.weft_namespace;
    let (version, rotation) = annotations(&cluster, namespace).await?;
    if rotation.runs() && !args.queue {
        return Err(Error::Rotating { step: rotation.doing().to_owned() });
    }
    // A value that was never there: each new one asks for one rotation.
    let asked = format!("{}-{:08x}", duration::stamp(SystemTime::now()).replace(' ', "T"), rand::random::<u32>());
    let patch = json!({"metadata": {"resourceVersion": version, "annotations": {ROTATE: asked}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    match secrets.patch_metadata(SECRET, &params, &Patch::Merge(patch)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            return Err(Error::Raced { name: format!("{namespace}/{SECRET}") });
        }
        Err(error) => return Err(cluster.failed(format!("annotate Secret {namespace}/{SECRET}"), &error)),
    }
    if args.watch {
        return watch(&cluster, target, Format::Table).await;
    }
    output::print(if rotation.runs() {
        "asked for; it begins when the rotation under way has ended: weft identity status --watch\n"
    } else {
        "asked for: weft identity status --watch shows each step\n"
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the status whenever it changes, until no rotation is under way.
async fn watch(cluster: &Cluster, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut shown: Option<Status> = None;
    loop {
        let status = look(cluster, target).await?;
        let key = |status: &Status| (status.rotation.clone(), status.roots.clone());
        if shown.as_ref().map(key) != Some(key(&status)) {
            print(&status, format)?;
            if format == Format::Table && status.rotation.runs() {
                output::print("\n")?;
            }
        }
        if !status.rotation.runs() {
            return Ok(ExitCode::SUCCESS);
        }
        shown = Some(status);
        sleep(PAUSE).await;
    }
}

fn print(status: &Status, format: Format) -> Result<(), Error> {
    output::print_as(format, status, |colours| show(status, *colours, SystemTime::now()))
}

/// The Secret's version and what its annotations say.
async fn annotations(cluster: &Cluster, namespace: &str) -> Result<(Option<String>, Rotation), Error> {
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    let secret = secrets
        .get_metadata_opt(SECRET)
        .await
        .map_err(|error| cluster.failed(format!("look at Secret {namespace}/{SECRET}"), &error))?;
    let Some(secret) = secret else {
        return Err(Error::NotInstalled { what: format!("Secret {SECRET}"), namespace: namespace.to_owned() });
    };
    let notes = secret.metadata.annotations.unwrap_or_default();
    Ok((secret.metadata.resource_version, Rotation::of(&notes)))
}

async fn look(cluster: &Cluster, target: &Target) -> Result<Status, Error> {
    let namespace = &target.weft_namespace;
    let (_, rotation) = annotations(cluster, namespace).await?;
    let named = ListParams::default().fields(&format!("metadata.name={ROOTS_CONFIG_MAP}"));
    let maps = list(Api::<ConfigMap>::all(cluster.client.clone()), named, |map| map).await;
    let (roots, roots_unknown) = match maps {
        Seen::Found(maps) => newest(&maps),
        Seen::Absent => (Vec::new(), Some("there are no ConfigMaps".to_owned())),
        Seen::Unknown(why) => (Vec::new(), Some(why)),
    };
    let waits_for = rotation.waits_for(SystemTime::now());
    let roots = roots.into_iter().enumerate().map(|(index, root)| Shown { role: rotation.role(index), root }).collect();
    Ok(Status { secret: format!("{namespace}/{SECRET}"), rotation, waits_for, roots, roots_unknown })
}

/// The roots of the bundle that was written last, as far as that can be told: namespaces that are no longer opted in keep an
/// old one.
fn newest(maps: &[ConfigMap]) -> (Vec<Root>, Option<String>) {
    let written = |map: &&ConfigMap| {
        let fields = map.metadata.managed_fields.iter().flatten();
        fields.filter_map(|field| Some(SystemTime::from(field.time.as_ref()?.0))).max()
    };
    let newest = maps.iter().max_by_key(written);
    let pem = newest.and_then(|map| map.data.as_ref()?.get(ROOTS_KEY));
    match pem.map(|pem| roots::read(pem)) {
        Some(Ok(roots)) => (roots, None),
        Some(Err(why)) => (Vec::new(), Some(format!("ConfigMap {ROOTS_CONFIG_MAP}: {why}"))),
        None => {
            let why =
                format!("no namespace is opted in, so there is no ConfigMap {ROOTS_CONFIG_MAP} to read them from");
            (Vec::new(), Some(why))
        }
    }
}

fn show(status: &Status, colours: Colours, now: SystemTime) -> String {
    let rotation = &status.rotation;
    let since =
        rotation.since.map(|since| format!(" since {} ({})", duration::stamp(since), duration::relative(since, now)));
    let step = if rotation.step.is_empty() { "unknown" } else { &rotation.step };
    let mut text = format!("root        Secret {}\n", status.secret);
    text.push_str(&format!("rotation    {step}{}\n            {}\n", since.unwrap_or_default(), rotation.doing()));
    if let Some(waits_for) = &status.waits_for {
        text.push_str(&format!("waits for   {waits_for}\n"));
    }
    if rotation.asked && !matches!(&*rotation.step, "stable" | "") {
        text.push_str("next        another rotation is asked for, and begins when this one has ended\n");
    }
    if let Some(why) = &status.roots_unknown {
        text.push_str(&format!("roots       {why}\n"));
        return text;
    }
    text.push('\n');
    let mut table = Table::new(&["ROLE", "SHA-256", "FROM", "UNTIL", "", "SUBJECT"]);
    for Shown { role, root } in &status.roots {
        table.row([
            (*role).to_owned(),
            format!("{}…", root.short()),
            duration::day(root.not_before),
            duration::day(root.not_after),
            duration::relative(root.not_after, now),
            root.subject.clone(),
        ]);
    }
    text.push_str(&table.render(0));
    let ends = status.roots.first().filter(|shown| shown.root.not_after <= now + EXPIRES_SOON);
    if ends.is_some() && !rotation.runs() {
        text.push_str(&colours.paint(Paint::Warning, "the root ends soon: weft identity rotate\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use weft_control_plane::identity::{SINCE, STEP};

    use super::*;
    use crate::roots::tests::root_until;

    fn map(written: &str, pem: &str) -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"managedFields": [{"manager": "weft", "operation": "Apply", "time": written}]},
            "data": {ROOTS_KEY: pem},
        }))
        .unwrap()
    }

    #[test]
    fn the_bundle_written_last_is_shown() {
        let (old, new) = (root_until(10_000), root_until(20_000));
        let maps = [map("2026-11-25T20:00:00Z", &new), map("2026-11-24T20:00:00Z", &old)];
        let (roots, _) = newest(&maps);
        assert_eq!(roots, roots::read(&new).unwrap());
        let (roots, why) = newest(&[]);
        assert!(roots.is_empty() && why.unwrap().contains("no namespace is opted in"));
    }

    #[test]
    fn status_is_a_page_to_read() {
        let notes =
            [(STEP, "distributing"), (SINCE, "1970-01-01T00:00:00Z")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let rotation = Rotation::of(&notes.into());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(240);
        let pem = root_until(20_000) + &root_until(20_000);
        let roots = roots::read(&pem).unwrap().into_iter().enumerate();
        let roots = roots.map(|(index, root)| Shown { role: rotation.role(index), root }).collect();
        let status = Status {
            secret: "weft-system/weft-ca".to_owned(),
            waits_for: rotation.waits_for(now),
            rotation,
            roots,
            roots_unknown: None,
        };
        let text = show(&status, Colours::NONE, now);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "rotation    distributing since 1970-01-01 00:00:00Z (4 min ago)", "{text}");
        assert!(lines[3].starts_with("waits for   every connected proxy"), "{text}");
        assert!(lines[5].starts_with("ROLE    SHA-256"), "{text}");
        assert!(lines[6].starts_with("signs") && lines[7].starts_with("next"), "{text}");
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["rotation"]["since"], "1970-01-01T00:00:00Z");
        assert_eq!(json["roots"][1]["role"], "next");
        assert!(json["roots"][0]["fingerprint"].is_string());
    }
}
