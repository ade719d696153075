//! The way to the API server: which kubeconfig, which context, and what to say when something on that way is wrong.
//!
//! Every request has a limit of [`TIME_LIMIT`], so a command against a cluster that is away ends, and says so.

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::header::DATE;
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::client::{Body, UpgradeConnectionError};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::args::Target;
use crate::error::Error;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// One request, with its answer.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// An API server that answers, and how we got there.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// For requests.
    pub(crate) client: Client,
    /// Where it is.
    pub(crate) url: String,
    /// Which kubeconfig said so.
    kubeconfig: String,
}

/// What the API server says about itself.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// Its version, as `v1.36.2`.
    pub(crate) version: String,
    /// Major and minor, where they are numbers.
    pub(crate) minor: Option<(u32, u32)>,
    /// Its clock, to the second.
    pub(crate) clock: Option<SystemTime>,
    /// Ours at that moment: the middle between question and answer.
    pub(crate) ours: SystemTime,
}

impl Cluster {
    /// Reads the kubeconfig that `target` names; sends nothing yet.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub(crate) async fn of(target: &Target) -> Result<Self, Error> {
        let mut config = config(target).await?;
        config.connect_timeout = Some(CONNECT_LIMIT);
        config.read_timeout = Some(TIME_LIMIT);
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config)
            .map_err(|error| Error::Kubeconfig { file: file_of(target), why: explain(&error) })?;
        Ok(Self { client, url, kubeconfig: file_of(target) })
    }

    /// Asks for the version.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn server(&self) -> Result<Server, kube::Error> {
        let request = http::Request::get("/version").body(Body::empty()).map_err(kube::Error::HttpError)?;
        let began = SystemTime::now();
        let answer = self.client.send(request).await?;
        let ours = began + began.elapsed().unwrap_or_default() / 2;
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        let clock = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(status_error(status, &body));
        }
        let info: Info = serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?;
        Ok(Server { minor: minor(&info), version: info.git_version, clock, ours })
    }

    /// What to tell about a request that failed; `what` completes "cannot …".
    pub(crate) fn failed(&self, what: impl Into<String>, error: &kube::Error) -> Error {
        let (what, why, url) = (what.into(), explain(error), self.url.clone());
        match error {
            kube::Error::Api(status) if status.code == 401 => Error::Unauthorized { url },
            kube::Error::Api(status) if status.code == 403 => Error::Forbidden { what, why },
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) if *status == 401 => {
                Error::Unauthorized { url }
            }
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) if *status == 403 => {
                Error::Forbidden { what, why }
            }
            kube::Error::Service(_) | kube::Error::HyperError(_) => Error::Unreachable { url, why },
            kube::Error::Auth(_) => Error::Kubeconfig { file: self.kubeconfig.clone(), why },
            _ => Error::Api { what, why },
        }
    }
}

/// Why a request failed, in one line and without Rust's own forms.
pub(crate) fn explain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return if status.message.is_empty() { format!("status {}", status.code) } else { status.message.clone() };
    }
    // The innermost says what really happened; the layers above it only that something did.
    let mut innermost: &dyn std::error::Error = error;
    while let Some(below) = innermost.source() {
        innermost = below;
    }
    innermost.to_string()
}

fn status_error(status: http::StatusCode, body: &[u8]) -> kube::Error {
    let said: Option<kube::core::Status> = serde_json::from_slice(body).ok();
    let said = said.unwrap_or_else(|| kube::core::Status::failure(status.as_str(), "").with_code(status.as_u16()));
    kube::Error::Api(said.boxed())
}

fn minor(info: &Info) -> Option<(u32, u32)> {
    // Some providers write `36+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    Some((number(&info.major)?, number(&info.minor)?))
}

async fn config(target: &Target) -> Result<Config, Error> {
    let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
    let unfit = |error: &KubeconfigError| Error::Kubeconfig { file: file_of(target), why: explain_config(error) };
    let kubeconfig = match &target.kubeconfig {
        Some(file) => Kubeconfig::read_from(file).map_err(|error| unfit(&error))?,
        None => match Kubeconfig::from_env().map_err(|error| unfit(&error))? {
            Some(kubeconfig) => kubeconfig,
            None if home_kubeconfig().is_some_and(|file| file.is_file()) => {
                Kubeconfig::read().map_err(|error| unfit(&error))?
            }
            None if target.context.is_none() => return Config::incluster().map_err(|_| Error::NoKubeconfig),
            None => return Err(Error::NoKubeconfig),
        },
    };
    if let Some(context) =
        target.context.as_ref().filter(|context| kubeconfig.contexts.iter().all(|c| c.name != **context))
    {
        let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| &*context.name).collect();
        return Err(Error::NoContext { file: file_of(target), context: context.clone(), known: known.join(", ") });
    }
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unfit(&error))
}

fn home_kubeconfig() -> Option<std::path::PathBuf> {
    std::env::home_dir().map(|home| home.join(".kube/config"))
}

/// The kubeconfig's name for people.
fn file_of(target: &Target) -> String {
    let given = target.kubeconfig.as_deref().map(Path::display).map(|file| file.to_string());
    given.or_else(|| std::env::var("KUBECONFIG").ok()).unwrap_or_else(|| "~/.kube/config".to_owned())
}

fn explain_config(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(source, _) => source.to_string(),
        KubeconfigError::CurrentContextNotSet => "it has no current context: pass --context NAME".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(file: &Path, context: Option<&str>) -> Target {
        Target {
            kubeconfig: Some(file.to_owned()),
            context: context.map(str::to_owned),
            weft_namespace: "weft-system".to_owned(),
            revision: None,
        }
    }

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: one, context: {cluster: c, user: u}}, {name: two, context: {cluster: c, user: u}}]
";

    async fn refusal(target: &Target) -> String {
        match Cluster::of(target).await {
            Ok(cluster) => match cluster.server().await {
                Ok(server) => format!("{server:?}"),
                Err(error) => cluster.failed("ask for the version", &error).to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn every_way_to_miss_the_api_server_has_its_advice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, KUBECONFIG).unwrap();
        let rows = [
            ("a file that is not there", target(&folder.path().join("none"), None), "cannot be used: No such file"),
            ("no current context", target(&file, None), "pass --context NAME"),
            ("another context", target(&file, Some("three")), "no context `three`; it has: one, two"),
            ("nobody listens", target(&file, Some("one")), "is it running, is this the right context"),
        ];
        for (row, target, expected) in rows {
            let said = refusal(&target).await;
            assert!(said.contains(expected), "{row}: {said}");
        }
        let said = refusal(&target(&file, Some("one"))).await;
        assert!(said.contains("http://127.0.0.1:9 cannot be reached: ") && said.contains("refused"), "{said}");
    }

    #[test]
    fn versions_with_a_plus_are_read() {
        for (major, number, expected) in
            [("1", "36", Some((1, 36))), ("1", "29+", Some((1, 29))), ("", "", None), ("1", "x", None)]
        {
            let info = Info { major: major.to_owned(), minor: number.to_owned(), ..Info::default() };
            assert_eq!(minor(&info), expected, "{major}.{number}");
        }
    }
}
