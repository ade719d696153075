//! One HTTP request to a port inside a pod, by the way that `kubectl port-forward` takes: through the API server and the
//! pod's kubelet, from the pod's own loopback. So it reaches what is for callers in the pod only, and who may use
//! `pods/portforward` there may ask.
//!
//! Bound: [`TIME_LIMIT`] for all of it, [`MAX_ANSWER`] of the answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::error::Error;

const TIME_LIMIT: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// For the API server to tell why a forwarded connection broke.
const WHY_LIMIT: Duration = Duration::from_secs(1);

/// A port of a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The pod's namespace.
    pub(crate) namespace: &'a str,
    /// The pod.
    pub(crate) pod: &'a str,
    /// What it is for, as `the sidecar`.
    pub(crate) what: &'a str,
    /// The port.
    pub(crate) port: u16,
}

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// All of its body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// Its body, for people.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// Sends `request`, whose target is a path, to `place`.
///
/// # Errors
/// When the API server does not forward it, or nobody answers there in time.
pub(crate) async fn ask(cluster: &Cluster, place: Place<'_>, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
    let asked = Box::pin(forwarded(cluster, place, request));
    timeout(TIME_LIMIT, asked).await.unwrap_or_else(|_| Err(place.silent(format!("no answer within {TIME_LIMIT:?}"))))
}

async fn forwarded(cluster: &Cluster, place: Place<'_>, mut request: Request<Full<Bytes>>) -> Result<Answer, Error> {
    let Place { namespace, pod, port, .. } = place;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let mut forwarder = pods
        .portforward(pod, &[port])
        .await
        .map_err(|error| cluster.failed(format!("forward port {port} of pod {namespace}/{pod}"), &error))?;
    let why = forwarder.take_error(port);
    let Some(stream) = forwarder.take_stream(port) else {
        return Err(place.silent("the API server forwarded no stream".to_owned()));
    };
    // Who answers on loopback believes those who name it.
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let exchanged = exchange(stream, request).await;
    match exchanged {
        Ok(answer) => Ok(answer),
        Err(error) => {
            let said = match why {
                Some(why) => timeout(WHY_LIMIT, why).await.ok().flatten(),
                None => None,
            };
            Err(place.silent(said.map_or(error, |said| said.trim().to_owned())))
        }
    }
}

/// One request on a connection of its own.
async fn exchange<IO>(stream: IO, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Its error is the request's as well.
    let carrying = tokio::spawn(connection);
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    };
    let answered = answered.await;
    carrying.abort();
    answered
}

impl Place<'_> {
    fn silent(&self, why: String) -> Error {
        let Self { namespace, pod, what, port } = self;
        Error::Silent {
            what: (*what).to_owned(),
            pod: format!("{namespace}/{pod}"),
            port: *port,
            why,
            look: format!("kubectl -n {namespace} describe pod {pod}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_and_a_connection_that_breaks_is_said() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes", Ok((200, "yes"))),
            ("HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\nno such thing\n", Ok((404, "no such thing"))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\ncut", Err(())),
            ("", Err(())),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let serving = async move {
                let mut head = [0; 1024];
                let _ = theirs.read(&mut head).await;
                let _ = theirs.write_all(answer.as_bytes()).await;
            };
            tokio::spawn(serving);
            let request = Request::get("/ready").header(HOST, "localhost").body(Full::default()).unwrap();
            let got = exchange(ours, request).await;
            let got = got.as_ref().map(|answer| (answer.status.as_u16(), answer.text())).map_err(drop);
            assert_eq!(got, expected.map(|(status, text)| (status, text.to_owned())), "{answer:?}");
        }
    }
}
