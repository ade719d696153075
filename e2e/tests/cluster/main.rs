//! Tests on a real Kubernetes (`make test-cluster`). They share one cluster, which the Makefile starts and ends; the phases
//! below say which come first and which run at once. `make test-cluster FILTER=rollouts` runs those of that theme.
//!
//! | file | its theme |
//! |---|---|
//! | `world.rs` | not a test: a namespace with its records, and the verdict over them |
//! | `bare.rs` | the cluster without Weft |
//! | `install.rs` | from nothing to sidecars |
//! | `traffic.rs` | every kind of traffic, and a person's `logs`, `exec` and `port-forward` |
//! | `probes.rs` | kubelet's probes and hooks, under STRICT |
//! | `jobs.rs` | what ends by itself |
//! | `semantics.rs` | what a Service promises |
//! | `identity.rs` | whoever claims to be somebody else |
//! | `canary.rs` | a canary by `kubectl apply`, and the route's status |
//! | `rollouts.rs` | nothing is lost, whatever is rolled out |
//! | `faults.rs` | without a control plane, without an API server |
//! | `cli.rs` | `weft`, as people type it |
//! | `scale.rs` | 1,000 Services, 200 proxies |
//! | `uninstall.rs` | what stays behind |

mod bare;
mod canary;
mod cli;
mod faults;
mod identity;
mod install;
mod jobs;
mod probes;
mod rollouts;
mod scale;
mod semantics;
mod traffic;
mod uninstall;
mod world;

use std::process::ExitCode;

use weft_e2e::cluster::{Phase, Test};

macro_rules! tests {
    ($($theme:ident::$claim:ident),* $(,)?) => {
        &[$(Test { name: concat!(stringify!($theme), "::", stringify!($claim)), run: $theme::$claim }),*]
    };
}

fn main() -> ExitCode {
    weft_e2e::cluster::run(&[
        Phase { name: "without Weft", tests: tests![bare::a_cluster_without_weft_works] },
        Phase { name: "counter-proof", tests: tests![rollouts::without_weft_the_same_rollouts_lose_requests] },
        Phase { name: "installation", tests: tests![install::from_an_empty_cluster_it_is_ready_within_20_s] },
        // Alone: for a moment the API server does not trust the webhook.
        Phase {
            name: "the webhook's configuration",
            tests: tests![install::the_control_plane_may_change_only_the_certificate_of_its_webhook],
        },
        Phase {
            name: "what users do",
            tests: tests![
                jobs::jobs_and_cron_jobs_complete,
                traffic::all_traffic_works_with_native_sidecars,
                traffic::all_traffic_works_with_classic_sidecars,
                probes::probes_and_hooks_work_under_strict,
                install::helm_test_makes_one_mesh_tls_call,
                identity::whoever_claims_to_be_somebody_else_is_refused,
            ],
        },
        Phase {
            name: "what a Service promises",
            tests: tests![
                semantics::addresses_that_are_not_ready_are_used_where_a_service_publishes_them,
                semantics::a_client_keeps_its_endpoint_by_session_affinity,
                semantics::internal_traffic_stays_on_the_node_where_a_service_says_so,
                semantics::endpoints_that_are_meant_for_this_node_are_preferred,
                semantics::a_named_target_port_may_differ_from_pod_to_pod,
            ],
        },
        // Alone: it sends fifty requests a second, none of which may fail, and pods that start take all there is of two cores.
        Phase { name: "a pod's end", tests: tests![semantics::a_terminating_pod_gets_no_new_requests] },
        Phase { name: "canary", tests: tests![canary::weights_shift_by_kubectl_apply_without_a_failure] },
        // Two at a time: each starts ten pods at once, and two cores must not be what fails.
        Phase {
            name: "rollouts, native",
            tests: tests![
                rollouts::nothing_is_lost_with_native_sidecars_when_apps_close_at_once,
                rollouts::nothing_is_lost_with_native_sidecars_when_apps_serve_on,
            ],
        },
        Phase {
            name: "rollouts, classic",
            tests: tests![
                rollouts::nothing_is_lost_with_classic_sidecars_when_apps_close_at_once,
                rollouts::nothing_is_lost_with_classic_sidecars_when_apps_serve_on,
            ],
        },
        Phase { name: "no control plane", tests: tests![faults::a_minute_without_a_control_plane_is_not_noticed] },
        Phase { name: "no API server", tests: tests![faults::nothing_is_stale_after_the_api_server_was_away] },
        Phase { name: "no leader", tests: tests![faults::another_replica_leads_when_the_leader_is_killed] },
        Phase { name: "the command line", tests: tests![cli::what_people_type_is_answered] },
        // Last but one: 7,000 objects are still being deleted when it is over.
        Phase { name: "scale", tests: tests![scale::a_thousand_services_and_two_hundred_proxies] },
        Phase { name: "removal", tests: tests![uninstall::nothing_stays_but_kinds] },
    ])
}
