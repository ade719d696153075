//! `weft`, as people type it, on a cluster that has Weft: all of it right, then all that can be wrong with who asks. It begins
//! a rotation of the root, which takes a day: nothing that comes after it may mind.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_e2e::cluster::{Cluster, Outcome, PATIENCE, SYSTEM, VALUES, Workload, figure, service};

use crate::world::{World, text};

pub(crate) fn what_people_type_is_answered() {
    let world = World::meshed("cli");
    world.deploy(&[
        Workload::server("cli", "web").deployment(),
        service("cli", "web", "web", &[("http", 80, "http")]),
        Workload::idle("cli", "client").deployment(),
    ]);
    world.until_answered("http://web/");
    let cluster = world.cluster();

    well(cluster);
    explains(&world);
    tells_of_our_own_kinds(&world);
    injects(&world);
    installs_over_itself(cluster);
    rotates(&world);
    says_what_is_wrong(&world);
    uninstalls_only_what_nobody_needs(cluster);
    world.remove();
}

fn weft(cluster: &Cluster, arguments: &[&str]) -> Outcome {
    cluster.attempt("weft", arguments, "").unwrap()
}

/// What it prints where all is well.
fn good(cluster: &Cluster, arguments: &[&str]) -> String {
    let Outcome { success, stdout, stderr } = weft(cluster, arguments);
    assert!(success, "weft {arguments:?} failed: {stdout}{stderr}");
    stdout
}

/// What it says where it must fail; never on stdout, which may be a pipe to `kubectl apply`.
fn bad(cluster: &Cluster, arguments: &[&str]) -> String {
    let Outcome { success, stdout, stderr } = weft(cluster, arguments);
    assert!(!success, "weft {arguments:?} ended well: {stdout}");
    stderr
}

fn json_of(cluster: &Cluster, arguments: &[&str]) -> Value {
    let said = good(cluster, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("weft {arguments:?}: {error}: {said}"))
}

fn well(cluster: &Cluster) {
    let began = std::time::Instant::now();
    let report = json_of(cluster, &["check", "--wait", "30s"]);
    figure("cli/weft-check", format!("{:.2} s", began.elapsed().as_secs_f64()));
    let checks = report["checks"].as_array().unwrap();
    let groups = ["kubernetes", "control-plane", "identity", "injection", "workloads"];
    for group in groups {
        assert!(checks.iter().any(|one| one["group"] == group), "no check of {group}: {report:#}");
    }
    for one in checks {
        assert!(!text(one, "/what").contains("cannot look"), "an administrator may look at everything: {one}");
    }
    println!("{}", good(cluster, &["check"]));

    let versions = json_of(cluster, &["version"]);
    let own = text(&versions, "/client");
    assert_eq!(versions["controlPlane"], json!({own: 2}), "{versions}");
    assert!(versions["sidecars"][own].as_u64() >= Some(2), "{versions}");
}

/// What the client's sidecar says of a request, and which routes are in effect.
fn explains(world: &World) {
    let cluster = world.cluster();
    let ask = |url: &str| json_of(cluster, &["explain", "-n", "cli", "deploy/client", "GET", url, "-H", "x-user: a"]);
    let told = ask("http://web/");
    assert_eq!(
        (text(&told, "/destination/name"), text(&told, "/backends/0/name")),
        ("cli/web", "cli/web:80"),
        "{told:#}"
    );
    assert_eq!(told["backends"][0]["endpoints"][0]["candidate"], true, "{told:#}");
    assert!(told["backends"][0]["endpoints"][0]["identity"].is_string(), "mesh TLS: {told:#}");
    let route = |parent: &str| {
        let backend = json!({"name": "web", "port": 80});
        let parent = json!({"group": "", "kind": "Service", "name": parent, "port": 80});
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "explained", "namespace": "cli"},
            "spec": {"parentRefs": [parent], "rules": [{"name": "all", "backendRefs": [backend]}]},
        })
    };
    cluster.apply(&route("web").to_string()).unwrap();
    let counted = || {
        let report = weft(cluster, &["check", "routes", "-n", "cli", "-o", "json"]);
        let report: Value = serde_json::from_str(&report.stdout).unwrap_or_default();
        let proxies = &report["routes"][0]["proxies"];
        let all = proxies["all"].as_u64() >= Some(1) && proxies["all"] == proxies["acked"];
        Ok((report["ok"] == true && all).then_some(()))
    };
    cluster.wait_for("a route that every proxy has", PATIENCE, counted).unwrap();
    println!("{}", good(cluster, &["check", "routes"]));
    let told = ask("http://web/");
    assert_eq!(text(&told, "/rule/route"), "HTTPRoute/cli/explained", "{told:#}");
    println!("{}", good(cluster, &["explain", "-n", "cli", "deploy/client", "http://web/"]));

    cluster.apply(&route("nobody").to_string()).unwrap();
    let refused = || Ok((!weft(cluster, &["check", "routes", "-n", "cli"]).success).then_some(()));
    cluster.wait_for("a route without its Service to be a problem", PATIENCE, refused).unwrap();
    for (arguments, says) in [
        (["deploy/nobody", "http://web/"], "there is no deployment nobody"),
        (["deploy/client", "http://nobody/"], "NAME.NAMESPACE"),
        (["deploy/client", "web"], "say http://HOST"),
    ] {
        let said = bad(cluster, &[&["explain", "-n", "cli"][..], &arguments].concat());
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

/// Our own kinds say in `kubectl get` whether they count, with every reason there is but `Invalid`, which the API server sees to.
fn tells_of_our_own_kinds(world: &World) {
    let cluster = world.cluster();
    let own = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": "cli"});
        json!({"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let on = |service: &str| json!([{"kind": "Service", "name": service}]);
    let limit = json!({"targetRefs": on("web"), "requests": 1000});
    cluster
        .apply_all(&[
            own("BackendPolicy", "a", json!({"targetRefs": on("web"), "loadBalancer": {"algorithm": "RoundRobin"}})),
            own("BackendPolicy", "b", json!({"targetRefs": on("web"), "connectTimeout": "1s"})),
            own("BackendPolicy", "lost", json!({"targetRefs": on("nobody"), "connectTimeout": "1s"})),
            own("RateLimit", "a", limit),
            own("FaultInjection", "a", json!({"delay": {"fixedDelay": "1s"}})),
        ])
        .unwrap();
    for (object, reason) in [
        ("backendpolicy/a", "Accepted"),
        ("backendpolicy/b", "Conflicted"),
        ("backendpolicy/lost", "TargetNotFound"),
        ("ratelimit/a", "Accepted"),
        ("faultinjection/a", "Accepted"),
    ] {
        let path = "jsonpath={.status.conditions[?(@.type==\"Accepted\")].reason}";
        let is = || Ok((world.kubectl(&["get", object, "-o", path]) == reason).then_some(()));
        cluster.wait_for(&format!("{object} to be {reason}"), PATIENCE, is).unwrap();
    }
    println!("{}", world.kubectl(&["get", "backendpolicies,ratelimits,faultinjections"]));
}

/// By hand what the webhook does, and back; a pod that carries it already is left alone by the webhook.
fn injects(world: &World) {
    let cluster = world.cluster();
    let plain = Workload::idle("cli", "by-hand").deployment();
    let injected = cluster.attempt("weft", &["inject", "-f", "-"], &plain.to_string()).unwrap();
    assert!(injected.success, "{}", injected.stderr);
    assert!(injected.stdout.contains("weft-sidecar"), "{}", injected.stdout);
    cluster.apply(&injected.stdout).unwrap();
    cluster.rolled_out("cli", "deployment/by-hand", PATIENCE).unwrap();
    let pod = world.pod("by-hand");
    let containers =
        ["/spec/initContainers", "/spec/containers"].map(|list| pod.pointer(list).and_then(Value::as_array));
    let sidecars =
        containers.into_iter().flatten().flatten().filter(|one| text(one, "/name") == "weft-sidecar").count();
    assert_eq!(sidecars, 1, "{pod}");

    let back = cluster.attempt("weft", &["uninject", "-f", "-"], &injected.stdout).unwrap();
    assert!(back.success && !back.stdout.contains("weft-sidecar"), "{}{}", back.stdout, back.stderr);
    let twice = cluster.attempt("weft", &["inject", "-f", "-"], &back.stdout).unwrap();
    assert_eq!(twice.stdout, injected.stdout, "out and in again is the same");
    let broken = cluster.attempt("weft", &["inject", "-f", "-"], "kind: [").unwrap();
    assert!(!broken.success && broken.stdout.is_empty() && !broken.stderr.is_empty(), "{broken:?}");
}

/// An upgrade to the same changes nothing, and waits until all is well.
fn installs_over_itself(cluster: &Cluster) {
    let said = good(cluster, &["install", "--wait", "-f", VALUES]);
    assert!(said.contains("Weft is installed"), "{said}");
    let rendered = good(cluster, &["install", "--render", "-f", VALUES]);
    assert!(rendered.contains("kind: MutatingWebhookConfiguration"), "{rendered}");
}

/// A rotation begins; its first step lasts minutes. Meanwhile nobody begins another, and traffic goes on.
fn rotates(world: &World) {
    let cluster = world.cluster();
    let step = || text(&json_of(cluster, &["identity", "status"]), "/rotation/step").to_owned();
    assert_eq!(step(), "stable");
    good(cluster, &["identity", "rotate"]);
    let refused = bad(cluster, &["identity", "rotate"]);
    assert!(refused.contains("--queue"), "{refused}");
    cluster.wait_for("the rotation's first step", PATIENCE, || Ok((step() == "distributing").then_some(()))).unwrap();
    let roots = json_of(cluster, &["identity", "status"]);
    let roles = || Some(roots["roots"].as_array()?.iter().map(|root| text(root, "/role")).collect::<Vec<_>>());
    assert_eq!(roles(), Some(vec!["signs", "next"]), "{roots:#}");
    println!("{}", good(cluster, &["identity", "status"]));
    assert_eq!(world.ask_one("http://web/").status, 200);
}

/// A kubeconfig of somebody else's, or of nobody.
struct Kubeconfigs<'a> {
    folder: PathBuf,
    cluster: &'a Cluster,
}

impl Kubeconfigs<'_> {
    fn write(&self, name: &str, edit: impl FnOnce(&mut Value)) -> String {
        let own = self.cluster.kubectl(&["config", "view", "--raw", "-o", "json"]).unwrap();
        let mut config: Value = serde_json::from_str(&own).unwrap();
        edit(&mut config);
        let file = self.folder.join(name);
        fs::write(&file, config.to_string()).unwrap();
        file.display().to_string()
    }
}

impl Drop for Kubeconfigs<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn says_what_is_wrong(world: &World) {
    let cluster = world.cluster();
    let folder = cluster.folder().join("kubeconfigs");
    fs::create_dir_all(&folder).unwrap();
    let files = Kubeconfigs { folder, cluster };
    world.kubectl(&["create", "serviceaccount", "nobody"]);
    let token = world.kubectl(&["create", "token", "nobody"]);
    let user = |token: &str| json!({"token": token.trim()});
    let nobody = files.write("nobody", |config| config["users"][0]["user"] = user(&token));
    let stranger = files.write("stranger", |config| config["users"][0]["user"] = user("not-a-token"));
    let away = files.write("away", |config| config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into());

    let rows: [(&[&str], &str); 9] = [
        (&["identity", "status", "--kubeconfig", "/nowhere"], "/nowhere"),
        (&["identity", "status", "--context", "elsewhere"], "has no context `elsewhere`"),
        (&["identity", "status", "--kubeconfig", &away], "cannot be reached"),
        (&["identity", "status", "--kubeconfig", &stranger], "does not know who you are"),
        (&["identity", "status", "--kubeconfig", &nobody], "you may not"),
        (&["identity", "rotate", "--kubeconfig", &nobody], "you may not"),
        (&["identity", "status", "--weft-namespace", "default"], "is Weft installed there?"),
        (&["inject", "-f", "/nowhere"], "/nowhere"),
        (&["uninstall", "-n", "default"], "is Weft installed there?"),
    ];
    for (arguments, expected) in rows {
        let said = bad(cluster, arguments);
        assert!(said.starts_with("weft: ") && said.contains(expected), "weft {arguments:?}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "more than a line: {said}");
        println!("  weft {}\n    {}", shown(arguments, &files.folder), said.trim());
    }
    // A report is a report, whoever asks: what may not be seen is named, and nobody takes it for well.
    for (arguments, expected) in [
        (&["check", "--kubeconfig", &away][..], ["cannot be reached", "is this the right context"]),
        (&["check", "--kubeconfig", &nobody], ["cannot look at the control plane", "ask for the permission"]),
        (
            &["check", "--weft-namespace", "default"],
            ["Weft is not installed in namespace default", "weft install --wait"],
        ),
    ] {
        let Outcome { success, stdout, .. } = weft(cluster, arguments);
        assert!(!success && expected.iter().all(|part| stdout.contains(part)), "weft {arguments:?}: {stdout}");
        println!("  weft {}\n{stdout}", shown(arguments, &files.folder));
    }
}

fn shown(arguments: &[&str], folder: &Path) -> String {
    arguments.join(" ").replace(&format!("{}/", folder.display()), "")
}

fn uninstalls_only_what_nobody_needs(cluster: &Cluster) {
    let refused = bad(cluster, &["uninstall"]);
    assert!(refused.contains("still with a sidecar") && refused.contains("--force"), "{refused}");
    assert!(cluster.attempt("helm", &["-n", SYSTEM, "status", "weft"], "").unwrap().success);
}
