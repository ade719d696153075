//! The commands and their flags. What is written here is what `--help` says and what `docs/reference/cli.md` is made from.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::duration;
use crate::names::Mesh;
use crate::output::Format;

/// Weft, a service mesh for Kubernetes
#[derive(Debug, Parser)]
#[command(name = "weft", version, arg_required_else_help = true, after_help = FIRST_STEPS)]
pub(crate) struct Cli {
    /// Which cluster, and which mesh there.
    #[command(flatten)]
    pub(crate) target: Target,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const FIRST_STEPS: &str = "\
First steps:
  weft check --pre                                      # is this cluster ready for Weft?
  weft install --wait                                   # install it
  kubectl label namespace shop weft.dev/inject=enabled  # opt a namespace in
  kubectl -n shop rollout restart deployment            # its pods come back with sidecars
  weft check                                            # is everything well?";

/// Which cluster, and which mesh there.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct Target {
    /// The kubeconfig; default: KUBECONFIG, then ~/.kube/config, then the service account of the pod this runs in
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; default: its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace that Weft itself runs in
    #[arg(long, global = true, env = "WEFT_NAMESPACE", default_value = "weft-system", value_name = "NAMESPACE")]
    pub(crate) weft_namespace: String,
    /// Of several control planes beside each other, the one of this revision
    #[arg(long, global = true, env = "WEFT_REVISION", value_name = "NAME")]
    pub(crate) revision: Option<String>,
}

impl Target {
    /// The mesh it names.
    pub(crate) fn mesh(&self) -> Mesh {
        Mesh { namespace: self.weft_namespace.clone(), revision: self.revision.clone().unwrap_or_default() }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install or upgrade Weft, or print what would be installed
    ///
    /// The Helm chart is part of this program; helm does the rest, so `helm list`, `helm rollback` and the like know
    /// about it. The preflight of `weft check --pre` runs first.
    #[command(after_help = INSTALL)]
    Install(InstallArgs),
    /// Remove Weft
    ///
    /// Refuses while pods still have sidecars. The mesh's root goes with its last control plane, so a new installation is a
    /// new mesh. The Gateway API's CRDs are kept, and without --purge the namespace.
    #[command(after_help = UNINSTALL)]
    Uninstall(UninstallArgs),
    /// Say whether the cluster is ready for Weft, or Weft is well, and what to do if not
    ///
    /// One line for each check: ✓ well, ! worth knowing, ✗ wrong, with what mends it. The exit code is 1 if anything is
    /// wrong.
    #[command(after_help = CHECK)]
    Check(CheckArgs),
    /// Say what becomes of a request, by the client's own sidecar
    ///
    /// Asks the sidecar of a pod of the client which rule the request matches and why, what filters change, who gets it at which share,
    /// and which endpoints may answer: from the configuration in force, by the code that carries requests. Nothing is
    /// sent to the server. The sidecar is reached by port-forward.
    #[command(after_help = EXPLAIN)]
    Explain(ExplainArgs),
    /// Say which version runs where: this program, the control plane, the sidecars
    #[command(after_help = VERSION)]
    Version(VersionArgs),
    /// Add the sidecar to manifests, as the webhook does
    ///
    /// The result goes to stdout, warnings to stderr. Manifests that are injected already and kinds that have no pods pass
    /// unchanged. The paths of rewritten probes get a new secret each time: where an apply shall not roll out anew, inject once
    /// and keep the result.
    #[command(after_help = INJECT)]
    Inject(InjectArgs),
    /// Remove from manifests what injection added
    #[command(after_help = UNINJECT)]
    Uninject(UninjectArgs),
    /// The mesh's root of trust: how it is, and its rotation
    Identity {
        /// What to do.
        #[command(subcommand)]
        command: IdentityCommand,
    },
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

const INSTALL: &str = "\
Examples:
  weft install --wait
  weft install --ha --set controlPlane.logLevel=debug --wait
  weft install -f values.yaml --render > weft.yaml
  weft install --revision next --wait   # beside the one that is there";

/// The flags of `install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Where to install; the same as --weft-namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Print the manifests and install nothing; needs helm, but no cluster
    #[arg(long, visible_alias = "dry-run")]
    pub(crate) render: bool,
    /// The chart's settings for high availability
    #[arg(long)]
    pub(crate) ha: bool,
    /// A chart value, as helm takes it; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// A file of chart values; may be given several times, the last one wins
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) values: Vec<String>,
    /// Wait until Weft is ready, at most this long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, num_args = 0..=1, default_missing_value = "120s")]
    pub(crate) wait: Option<Duration>,
    /// Install even if the preflight finds errors
    #[arg(long)]
    pub(crate) skip_checks: bool,
    /// The helm program
    #[command(flatten)]
    pub(crate) helm: HelmArgs,
}

/// Which helm.
#[derive(Debug, Args)]
pub(crate) struct HelmArgs {
    /// The helm program, 3.14 or later
    #[arg(long, env = "WEFT_HELM", default_value = "helm", value_name = "FILE")]
    pub(crate) helm: String,
}

const UNINSTALL: &str = "\
Examples:
  weft uninstall
  weft uninstall --purge   # the namespace as well";

/// The flags of `uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Where it is installed; the same as --weft-namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Even if pods still have sidecars
    #[arg(long)]
    pub(crate) force: bool,
    /// Delete the namespace, too, unless something else runs there
    #[arg(long)]
    pub(crate) purge: bool,
    /// The helm program
    #[command(flatten)]
    pub(crate) helm: HelmArgs,
}

const CHECK: &str = "\
Examples:
  weft check --pre         # before installing
  weft check
  weft check -n shop       # only the pods and objects of one namespace
  weft check --wait 60s    # until nothing is wrong any more
  weft check routes        # every route, and how many proxies have it
  weft check -o json | jq '.checks[] | select(.level == \"error\")'";

/// The flags of `check`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct CheckArgs {
    /// Something in particular.
    #[command(subcommand)]
    pub(crate) command: Option<CheckCommand>,
    /// Only whether the cluster is ready for Weft
    #[arg(long)]
    pub(crate) pre: bool,
    /// Only pods and objects of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Check again until nothing is wrong, at most this long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, num_args = 0..=1, default_missing_value = "60s")]
    pub(crate) wait: Option<Duration>,
    /// How the result is printed
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What to check in particular.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckCommand {
    /// Say which routes and objects of Weft's own kinds are in effect, what is wrong with the others, and how many proxies have each route
    ///
    /// A line for each problem that is found in a route's status: not accepted, a backend that is not there, a rule
    /// that is left out, proxies that do not have it, a status that lags behind; then a line for each route without any.
    /// Routes of all kinds of the Gateway API whose parent is a Service. How many proxies have a route now is asked of the
    /// control plane, by port-forward. So it is with BackendPolicies, FaultInjections and RateLimits: fields that are
    /// wrong, targets that are not there, an older policy that counts in their place. With `--status-dir` all of this is
    /// read from the files that a control plane without a cluster writes, with what it refuses of its manifests, by file
    /// and line, and nothing is counted. The exit code is 1 if there is a problem.
    #[command(after_help = ROUTES)]
    Routes(RoutesArgs),
}

const ROUTES: &str = "\
Examples:
  weft check routes
  weft check routes -n shop
  weft check routes --status-dir ./status   # without a cluster
  weft check routes -o json | jq '.routes[] | select(.problems != [])'";

/// The flags of `check routes`.
#[derive(Debug, Args)]
pub(crate) struct RoutesArgs {
    /// Only routes of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Routes of all namespaces, which is the default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Without a cluster: the directory into which weft-control-plane writes status
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) status_dir: Option<PathBuf>,
    /// How the result is printed
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// How a result is printed.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// How the result is printed
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Format,
}

const EXPLAIN: &str = "\
Examples:
  weft explain -n shop deploy/web GET http://reviews/v2 -H 'x-user: a'
  weft explain deploy/web grpc://reviews/pkg.Service/Method
  weft explain -n shop pod/web-7d9f-abcde http://reviews:9080/ -o json | jq .rule";

/// The flags of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The client, as deploy/NAME, sts/NAME, ds/NAME, job/NAME or pod/NAME: one of its pods is asked
    pub(crate) workload: String,
    /// [METHOD] URL: the URL as http://HOST[:PORT]/PATH, https://HOST[:PORT] or grpc://HOST[:PORT]/SERVICE/METHOD
    #[arg(required = true, num_args = 1..=2, value_name = "REQUEST")]
    pub(crate) request: Vec<String>,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// The client's namespace; default: the kubeconfig's
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// How the result is printed
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const VERSION: &str = "\
Examples:
  weft version
  weft version --client
  weft version -o json";

/// The flags of `version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Only this program's; asks no cluster
    #[arg(long)]
    pub(crate) client: bool,
    /// How the result is printed
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const INJECT: &str = "\
Examples:
  weft inject -f deployment.yaml | kubectl apply -f -
  kustomize build . | weft inject -f - > injected.yaml
  weft inject --defaults -f deployment.yaml   # without a cluster";

/// The flags of `inject`.
#[derive(Debug, Args)]
pub(crate) struct InjectArgs {
    /// Manifests; `-` is stdin; may be given several times
    #[arg(short = 'f', long, value_name = "FILE", required = true)]
    pub(crate) filename: Vec<PathBuf>,
    /// What to inject, as ConfigMap weft-injection has it; default: that ConfigMap of the cluster
    #[arg(long, value_name = "FILE", conflicts_with = "defaults")]
    pub(crate) config: Option<PathBuf>,
    /// Inject what a default installation of this version would
    #[arg(long)]
    pub(crate) defaults: bool,
    /// Where objects go that name no namespace
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    pub(crate) namespace: String,
}

const UNINJECT: &str = "\
Examples:
  kubectl -n shop get deployment web -o yaml | weft uninject -f - | kubectl apply -f -";

/// The flags of `uninject`.
#[derive(Debug, Args)]
pub(crate) struct UninjectArgs {
    /// Manifests; `-` is stdin; may be given several times
    #[arg(short = 'f', long, value_name = "FILE", required = true)]
    pub(crate) filename: Vec<PathBuf>,
}

/// What to do about the root.
#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// The roots that are trusted, and where a rotation is
    #[command(after_help = STATUS)]
    Status(StatusArgs),
    /// Replace the root by a new one, while everything runs
    ///
    /// The control plane does it in steps: everybody trusts the new root, then it signs, then the old one is withdrawn when
    /// nothing that it signed is left: about a day, with certificates that live for 24 h. No pod restarts.
    #[command(after_help = ROTATE)]
    Rotate(RotateArgs),
}

const STATUS: &str = "\
Examples:
  weft identity status
  weft identity status --watch    # until no rotation is under way
  weft identity status -o json";

/// The flags of `identity status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Go on until no rotation is under way, and print each step
    #[arg(long)]
    pub(crate) watch: bool,
    /// How the result is printed
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const ROTATE: &str = "\
Examples:
  weft identity rotate
  weft identity rotate --watch
  weft identity rotate --queue    # another one, after the one under way";

/// The flags of `identity rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// If a rotation is under way, ask for another after it
    #[arg(long)]
    pub(crate) queue: bool,
    /// Go on until the rotation has ended, and print each step
    #[arg(long)]
    pub(crate) watch: bool,
}

const COMPLETIONS: &str = "\
Examples:
  weft completions bash > /etc/bash_completion.d/weft
  weft completions zsh > \"${fpath[1]}/_weft\"
  weft completions fish > ~/.config/fish/completions/weft.fish";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn waiting_needs_no_length() {
        for (line, expected) in [
            (&["weft", "check"][..], None),
            (&["weft", "check", "--wait"], Some(60)),
            (&["weft", "check", "--wait", "5m"], Some(300)),
            (&["weft", "check", "--wait=90", "-o", "json"], Some(90)),
        ] {
            let Command::Check(args) = Cli::try_parse_from(line).unwrap().command else { panic!("{line:?}") };
            assert_eq!(args.wait.map(|wait| wait.as_secs()), expected, "{line:?}");
        }
        assert!(Cli::try_parse_from(["weft", "check", "--wait", "soon"]).is_err());
    }

    #[test]
    fn the_routes_are_those_of_one_namespace_or_of_all() {
        for (line, expected) in [
            (&["weft", "check", "routes"][..], Some(None)),
            (&["weft", "check", "routes", "-A"], Some(None)),
            (&["weft", "check", "routes", "-n", "shop", "-o", "json"], Some(Some("shop"))),
            (&["weft", "check", "routes", "-A", "-n", "shop"], None),
            (&["weft", "check", "-n", "shop", "routes"], None),
        ] {
            let found = Cli::try_parse_from(line).ok().map(|cli| match cli.command {
                Command::Check(CheckArgs { command: Some(CheckCommand::Routes(args)), .. }) => args.namespace,
                other => panic!("{other:?}"),
            });
            assert_eq!(found.as_ref().map(Option::as_deref), expected, "{line:?}");
        }
    }
}
