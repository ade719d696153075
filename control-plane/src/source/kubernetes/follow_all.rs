//! Every kind's watch at once: [`kinds`](super::kinds) says which there are, [`follow`](super::follow) how one goes.

use kube::api::{DynamicObject, PartialObjectMeta};
use kube::{Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::follow::{Follow, follow};
use super::gather::Message;
use super::kinds::{KINDS, UNENFORCED};
use super::metrics::Metrics;
use super::seen::{Of, Seen};
use super::state::{Happening, map_event};
use crate::model::{Kind, ObjectName};

macro_rules! of {
    ($($marker:ident)*) => {
        $(
            pub(super) struct $marker;
            impl Of for $marker {
                const KIND: Kind = Kind::$marker;
            }
        )*

        /// Follows every kind, each in a task of its own, so that none waits for another's list to be decoded.
        pub(super) fn follow_all(
            client: &Client,
            events: &mpsc::Sender<Message>,
            metrics: &Metrics,
            tasks: &mut JoinSet<()>,
        ) {
            for (kind, row) in &KINDS {
                let how = Follow { client: client.clone(), row, events: events.clone(), metrics: metrics.clone() };
                match kind {
                    $(Kind::$marker => tasks.spawn(follow(how, |event| {
                        Message::Object(Kind::$marker, Box::new(map_event(event, |seen: Seen<$marker>| seen.served)))
                    }, || Message::Object(Kind::$marker, Box::new(Happening::Absent)))),)*
                    // Asked for by name (`config_maps.rs`); none of the table.
                    Kind::ConfigMap => continue,
                };
            }
            for row in &UNENFORCED {
                let how = Follow { client: client.clone(), row, events: events.clone(), metrics: metrics.clone() };
                let name = |object: PartialObjectMeta<DynamicObject>| {
                    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
                };
                tasks.spawn(follow(
                    how,
                    move |event| Message::Unenforced(row.kind, map_event(event, name)),
                    || Message::Unenforced(row.kind, Happening::Absent),
                ));
            }
        }
    };
}

of!(Namespace Service EndpointSlice Pod Node HttpRoute PeerAuthentication GrpcRoute TlsRoute TcpRoute BackendTlsPolicy TrafficPolicy FaultInjection RateLimit BackendPolicy);
