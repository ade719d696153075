//! What can go wrong in the command line. Each message says what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing says where the cluster is.
    #[error(
        "no kubeconfig: set KUBECONFIG or pass --kubeconfig FILE (there is no ~/.kube/config, and this is not a pod)"
    )]
    NoKubeconfig,
    /// A status directory that cannot be read.
    #[error("the status directory {} cannot be read: {why}; it is what weft-control-plane has as --status-dir", .path.display())]
    StatusDirectory {
        /// Which.
        path: PathBuf,
        /// What happened.
        why: io::Error,
    },
    /// A kubeconfig that cannot be used.
    #[error("the kubeconfig {file} cannot be used: {why}")]
    Kubeconfig {
        /// Which.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A context that the kubeconfig does not have.
    #[error("the kubeconfig {file} has no context `{context}`; it has: {known}")]
    NoContext {
        /// Which file.
        file: String,
        /// What was asked for.
        context: String,
        /// Those it has.
        known: String,
    },
    /// No connection.
    #[error(
        "the API server at {url} cannot be reached: {why}; is it running, is this the right context, and does the network \
         let you there?"
    )]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened.
        why: String,
    },
    /// 401.
    #[error("the API server at {url} does not know who you are: log in again, or choose another --context")]
    Unauthorized {
        /// Which.
        url: String,
    },
    /// 403.
    #[error("you may not {what}: {why}; ask whoever administers the cluster for that permission")]
    Forbidden {
        /// What was tried.
        what: String,
        /// What the API server said.
        why: String,
    },
    /// Any other answer than the one hoped for.
    #[error("cannot {what}: {why}")]
    Api {
        /// What was tried.
        what: String,
        /// What the API server said.
        why: String,
    },
    /// No Weft there.
    #[error(
        "there is no {what} in namespace {namespace}: is Weft installed there? `weft install` installs it, \
         --weft-namespace says where it is"
    )]
    NotInstalled {
        /// What was looked for.
        what: String,
        /// Where.
        namespace: String,
    },
    /// Nobody answers in a pod.
    #[error("{what} in pod {pod} cannot be asked on its port {port}: {why}; is it running? {look}")]
    Silent {
        /// Who should answer, as `the sidecar`.
        what: String,
        /// `namespace/name`.
        pod: String,
        /// Where.
        port: u16,
        /// What happened.
        why: String,
        /// A command that tells more.
        look: String,
    },
    /// What is asked makes no sense.
    #[error("cannot ask that: {why}")]
    Question {
        /// Why not, and what to say instead.
        why: String,
    },
    /// No such workload.
    #[error(
        "there is no {what} in namespace {namespace}: `kubectl -n {namespace} get {kind}s` lists them, -n says where"
    )]
    NoWorkload {
        /// As `deployment web`.
        what: String,
        /// Where.
        namespace: String,
        /// Its kind.
        kind: String,
    },
    /// A workload whose pods have no sidecar to ask.
    #[error("{what} has no sidecar that can be asked: {why}; {fix}")]
    NoSidecar {
        /// As `deployment shop/web`.
        what: String,
        /// Why not.
        why: String,
        /// What to do.
        fix: String,
    },
    /// helm is not there.
    #[error(
        "`{program}` was not found. weft installs its chart through helm 3.14 or later: see \
         https://helm.sh/docs/intro/install (`brew install helm`, `snap install helm --classic`, `winget install \
         Helm.Helm`), or pass --helm FILE"
    )]
    NoHelm {
        /// What was called.
        program: String,
    },
    /// helm failed; it has said why on stderr.
    #[error("`{command}` failed ({status}); what it says is above")]
    Helm {
        /// What was called.
        command: String,
        /// How it ended.
        status: String,
    },
    /// Built without the chart.
    #[error("this weft was built without {what}: build it from a checkout that has charts/weft")]
    NoChart {
        /// What is missing.
        what: &'static str,
    },
    /// The preflight found errors, which are printed.
    #[error("the cluster is not ready for Weft: mend what is marked above, or pass --skip-checks")]
    NotReady,
    /// Pods that would be left without their control plane.
    #[error(
        "{pods} still with a sidecar, which would go on with what it knows until it ends ({some}): unlabel the namespaces \
         and restart the workloads first, or pass --force"
    )]
    StillMeshed {
        /// How many, as `3 pods`.
        pods: String,
        /// Some of them.
        some: String,
    },
    /// A namespace that is not Weft's alone.
    #[error("namespace {namespace} is kept, so nothing was done: {others} also run there; leave out --purge")]
    Shared {
        /// Which.
        namespace: String,
        /// What else is there.
        others: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {within}: {last}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        within: String,
        /// What was seen last.
        last: String,
    },
    /// A rotation is under way.
    #[error("a rotation is under way ({step}): wait for its end (`weft identity status --watch`), or pass --queue")]
    Rotating {
        /// Its step.
        step: String,
    },
    /// The Secret changed between looking and writing.
    #[error("somebody else changed the Secret {name} at the same moment: look at `weft identity status` and try again")]
    Raced {
        /// Which.
        name: String,
    },
    /// A file of the user's.
    #[error("cannot read {file}: {source}")]
    File {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the user's makes no sense.
    #[error("{file}: {why}")]
    Input {
        /// Which.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A folder for the chart could not be made.
    #[error("cannot unpack the chart into a temporary folder: {0}")]
    Unpack(io::Error),
    /// Standard output.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}
