//! The headline: nothing is lost, whatever is rolled out, and no user writes a preStop sleep for it. Two modes of sidecar, two
//! habits of servers; clients that retry nothing, keep-alive and not, GET and POST, at a fixed rate. Everything is restarted
//! meanwhile: the server three times, the client, the control plane; scaled up and down; deleted with little grace. No client
//! that ever lived may have one failure in its own log, and every POST must have run exactly once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_e2e::apps::now_ms;
use weft_e2e::cluster::{PATIENCE, SYSTEM, Workload, figure, service};

use crate::world::{Mode, World, flawless, in_mode, slow, text};

/// Requests a second of each of the two clients.
const RATE: u32 = 40;
/// Together at least 20,000, by default; each, at full length.
const AT_LEAST: usize = 5_000;

pub(crate) fn nothing_is_lost_with_native_sidecars_when_apps_close_at_once() {
    nothing_is_lost(Mode::Native, "close");
}

pub(crate) fn nothing_is_lost_with_native_sidecars_when_apps_serve_on() {
    nothing_is_lost(Mode::Native, "serve:5s");
}

pub(crate) fn nothing_is_lost_with_classic_sidecars_when_apps_close_at_once() {
    nothing_is_lost(Mode::Classic, "close");
}

pub(crate) fn nothing_is_lost_with_classic_sidecars_when_apps_serve_on() {
    nothing_is_lost(Mode::Classic, "serve:5s");
}

/// The counter-proof: the same load on the same servers without sidecars loses requests. A harness that did not see them
/// would not see Weft's either.
pub(crate) fn without_weft_the_same_rollouts_lose_requests() {
    let world = World::without_weft("rollouts-without-weft");
    let mut diary = under_load(&world, Mode::Native, "close", 1);
    for _ in 0..2 {
        restart_server(&world, &mut diary);
    }
    end_of_load(&world, &mut diary);
    let sent = world.records.sent();
    let failed = sent.iter().filter(|one| !one.ok()).count();
    figure("rollouts/without-weft", format!("{failed} of {} requests failed in two restarts", sent.len()));
    assert!(failed > 0, "nothing was lost without Weft: these tests prove nothing");
    world.remove();
}

/// What was going on when.
struct Diary {
    began: Instant,
    steps: Vec<(u64, String)>,
}

impl Diary {
    fn write(&mut self, step: &str) {
        println!("  {} +{:.0?}: {step}", std::thread::current().name().unwrap_or_default(), self.began.elapsed());
        self.steps.push((now_ms(), step.to_owned()));
    }

    fn at(&self, at_ms: u64) -> String {
        let step = self.steps.iter().rev().find(|(began, _)| *began <= at_ms);
        step.map_or_else(String::new, |(began, step)| format!("{step}, +{} ms", at_ms - began))
    }
}

fn nothing_is_lost(mode: Mode, on_term: &str) {
    let habit = on_term.split(':').next().unwrap_or_default();
    let world = World::meshed(&format!("rollouts-{}-{habit}", mode.name()));
    let mut diary = under_load(&world, mode, on_term, 2);
    everything_is_restarted(&world, &mut diary);
    let wanted = if slow() { 4 * AT_LEAST } else { AT_LEAST };
    while world.records.sent().len() < wanted && diary.began.elapsed() < Duration::from_secs(600) {
        diary.write("a quiet while");
        std::thread::sleep(Duration::from_secs(5));
    }
    end_of_load(&world, &mut diary);

    let totals = flawless(&world.records, wanted, |at_ms| diary.at(at_ms));
    figure(
        &format!("rollouts/{}-{habit}", mode.name()),
        format!(
            "{} requests, {} of them POSTs, 0 failed, each POST ran once; p50 {:.1} ms, p99 {:.1} ms, slowest {:.0} ms",
            totals.sent, totals.posts, totals.p50_ms, totals.p99_ms, totals.slowest_ms
        ),
    );
    world.remove();
}

/// Two servers, and as many clients as said that ask them.
fn under_load(world: &World, mode: Mode, on_term: &str, clients: u32) -> Diary {
    let namespace = &*world.namespace;
    // Says of a request that it could not try again what kept it from that.
    let log = "info,weft_sidecar::http::h1=debug";
    let server = Workload::server(namespace, "web").args(&["--on-term", on_term]).replicas(2);
    let server = server.annotation("weft.dev/log-level", log);
    let paths = ["--mix", "--body", "200", "--path", "/", "--path", "/slow?ms=300"];
    let client = Workload::load(namespace, "load", "web:80", RATE).args(&paths).replicas(clients);
    world.deploy(&[
        in_mode(server, mode).deployment(),
        service(namespace, "web", "web", &[("http", 80, "http")]),
        in_mode(Workload::idle(namespace, "client"), mode).deployment(),
    ]);
    world.until_answered("http://web/");
    world.deploy(&[in_mode(client, mode).deployment()]);
    std::thread::sleep(Duration::from_secs(2));
    Diary { began: Instant::now(), steps: Vec::new() }
}

fn end_of_load(world: &World, diary: &mut Diary) {
    diary.write("the clients' end");
    world.kubectl(&["scale", "deployment/load", "--replicas=0"]);
    world.until_pods("load", 0);
}

fn restart_server(world: &World, diary: &mut Diary) {
    diary.write("restart of the server");
    world.kubectl(&["rollout", "restart", "deployment/web"]);
    world.cluster().rolled_out(&world.namespace, "deployment/web", PATIENCE).unwrap();
}

fn everything_is_restarted(world: &World, diary: &mut Diary) {
    let rolled_out = |workload: &str| world.cluster().rolled_out(&world.namespace, workload, PATIENCE).unwrap();
    for _ in 0..3 {
        restart_server(world, diary);
    }
    diary.write("restart of the clients");
    world.kubectl(&["rollout", "restart", "deployment/load"]);
    rolled_out("deployment/load");
    diary.write("restart of the control plane");
    restart_control_plane(world, diary.began);
    scale_up_and_down(world, diary);
    world.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    rolled_out("deployment/web");
    for grace in [5, 8] {
        diary.write(&format!("deletion with {grace} s of grace"));
        let pod = running(world);
        world.kubectl(&["delete", "pod", &pod, &format!("--grace-period={grace}")]);
        rolled_out("deployment/web");
    }
}

/// One world at a time, since starting ten pods is all that two cores can do at once.
fn scale_up_and_down(world: &World, diary: &mut Diary) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for replicas in [1, 10, 1] {
        diary.write(&format!("scaling to {replicas}"));
        world.kubectl(&["scale", "deployment/web", &format!("--replicas={replicas}")]);
        world.cluster().rolled_out(&world.namespace, "deployment/web", PATIENCE).unwrap();
    }
}

/// The name of a server's pod that is not on its way out.
fn running(world: &World) -> String {
    let pods = world.pods("web");
    let live = pods.iter().find(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
    text(live.unwrap_or_else(|| panic!("no pod of web runs")), "/metadata/name").to_owned()
}

/// The worlds of this phase share one control plane: one restart is one for all whose load had begun.
fn restart_control_plane(world: &World, load_began: Instant) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_some_and(|last| last > load_began) {
        return;
    }
    *last = Some(Instant::now());
    let deployment = "deployment/weft-control-plane";
    world.cluster().kubectl(&["-n", SYSTEM, "rollout", "restart", deployment]).unwrap();
    world.cluster().rolled_out(SYSTEM, deployment, PATIENCE).unwrap();
}
