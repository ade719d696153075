//! A connection being opened, which is a task: it belongs to all who wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::state::Worker;
use super::{Connected, Shared, wake};
use crate::http::Proto;
use crate::http::error::ConnectError;
use crate::http::h1::client::{Connection as H1, Home};
use crate::http::h2::client::{Connection as H2, Handle};
use crate::resilience::ConnectionGuard;

/// A connection being opened. Dropped before its end (a panic, a runtime shut down), it counts as failed.
pub(super) struct Attempt(Option<(Arc<Shared>, ConnectionGuard)>);

impl Attempt {
    pub(super) fn new(shared: &Arc<Shared>, place: ConnectionGuard) -> Self {
        Self(Some((Arc::clone(shared), place)))
    }

    pub(super) async fn run(mut self, connect: impl Future<Output = Result<Connected, ConnectError>> + Send + 'static) {
        let made = self.make(connect).await;
        if let Some((shared, place)) = self.0.take() {
            shared.made(made, place);
        }
    }

    async fn make(
        &self,
        connect: impl Future<Output = Result<Connected, ConnectError>> + Send + 'static,
    ) -> Result<Made, ConnectError> {
        let Connected { io, proto, expires } = connect.await?;
        let Some((shared, _)) = &self.0 else { return Err(ConnectError::new("the attempt was abandoned")) };
        match proto {
            Proto::H1 => Ok(Made::H1(H1::new(io, shared.settings.head).to_app(shared.settings.to_app))),
            Proto::H2 => {
                let (handle, driver) = H2::handshake(io, &shared.settings.h2).await.map_err(ConnectError::new)?;
                Ok(Made::H2(handle, Box::pin(driver), expires))
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some((shared, place)) = self.0.take() {
            let error = ConnectError::new("the attempt was abandoned: its task panicked or its worker stopped");
            shared.made(Err(error), place);
        }
    }
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

enum Made {
    H1(H1),
    H2(Handle, Driver, Option<Instant>),
}

impl Shared {
    /// An attempt ended.
    fn made(&self, made: Result<Made, ConnectError>, place: ConnectionGuard) {
        let now = Instant::now();
        match made {
            Err(error) => {
                let (wakers, starves) = {
                    let mut state = self.state.lock();
                    (state.failed(&error, now), state.starves())
                };
                wake(wakers);
                drop(place);
                if starves {
                    self.queue();
                }
            }
            Ok(Made::H1(connection)) => {
                let connection = connection.at_home(self.me.clone() as Weak<dyn Home>, place);
                let (refused, waker) = self.state.lock().made_h1(connection, now);
                drop(refused);
                wake(waker);
                self.reap();
            }
            Ok(Made::H2(handle, driver, expires)) => {
                let id = self.state.lock().next_id();
                let me = self.me.clone();
                // Before anybody finds it: a stream that ends unheard would leave it in use for ever.
                handle.on_free(move || {
                    if let Some(shared) = me.upgrade() {
                        shared.stream_ended(id);
                    }
                });
                let waker = self.state.lock().made_h2(id, handle, Worker::current(), expires, now);
                let me = self.me.clone();
                tokio::spawn(async move {
                    driver.await;
                    if let Some(shared) = me.upgrade() {
                        shared.h2_closed(id);
                    }
                    drop(place);
                });
                wake(waker);
                self.reap();
            }
        }
    }
}
