//! Programs that go on beside a test. Above all `kubectl get --watch`: every change of an object with the moment it came,
//! for what has to happen within a second, which asking again and again would measure badly.
//!
//! Bound: the changes of one command's objects, kept until they are read.

use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Cluster;
use crate::error::Context;
use crate::{Error, Result};

/// A watch under way. It ends with the value.
#[derive(Debug)]
pub struct Watch {
    _child: Background,
    seen: Receiver<Seen>,
}

/// An object as it was from a moment on.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When it was seen.
    pub at: Instant,
    /// The object.
    pub object: Value,
}

/// A program that runs beside the test. It ends with the value.
#[derive(Debug)]
pub struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cluster {
    /// Starts a program of the cluster's folder that goes on: `kubectl port-forward`. What it prints is lost.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn background(&self, program: &str, arguments: &[&str]) -> Result<Background> {
        let mut command = self.command(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context(|| format!("{program} {}", arguments.join(" "))).map(Background)
    }

    /// Begins to watch: `["-n", "shop", "httproute", "reviews"]`. The objects as they are come first.
    ///
    /// # Errors
    /// When `kubectl` cannot be started.
    pub fn watch(&self, arguments: &[&str]) -> Result<Watch> {
        let mut command = self.command("kubectl");
        command.args(["get", "--watch", "-o", "json"]).args(arguments);
        let mut child = command.spawn().context(|| format!("kubectl get --watch {}", arguments.join(" ")))?;
        let (sender, seen) = channel();
        if let Some(stdout) = child.stdout.take() {
            // Ends with the program's output.
            std::thread::spawn(move || {
                for object in serde_json::Deserializer::from_reader(stdout).into_iter::<Value>() {
                    let Ok(object) = object else { return };
                    if sender.send(Seen { at: Instant::now(), object }).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Watch { _child: Background(child), seen })
    }
}

impl Watch {
    /// What `done` makes of the first object, of those not looked at yet, of which it makes something.
    ///
    /// # Errors
    /// When it does not come in time, with the last object seen.
    pub fn until<T>(&self, what: &str, within: Duration, mut done: impl FnMut(&Seen) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut last = Value::Null;
        while let Ok(seen) = self.seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if let Some(value) = done(&seen) {
                return Ok(value);
            }
            last = seen.object;
        }
        Err(Error::Timeout { what: what.to_owned(), after: within, hint: format!("; last seen: {last}") })
    }
}
