//! `weft explain`: what becomes of a request, asked of the client's own sidecar.
//!
//! A pod of the workload is chosen, and its sidecar asked on its admin port, by port-forward: it answers from the configuration
//! in force, by the functions that carry its requests (`sidecar/src/outbound/explain`). Nothing is sent to anybody.
//!
//! | file | what it does |
//! |---|---|
//! | `workload.rs` | `deploy/web` → its pods, and the one to ask |
//! | `show.rs` | the answer as a page to read (pure) |

use std::process::ExitCode;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use weft_proto::explain::{Explanation, Question};
use weft_proto::ports;

use crate::args::{ExplainArgs, Target};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::output::{self, Colours};
use crate::reach::{self, Place};

mod show;
mod workload;

/// `weft explain`.
///
/// # Errors
/// When there is nobody to ask, or the question is none.
pub(crate) async fn run(target: &Target, args: &ExplainArgs) -> Result<ExitCode, Error> {
    let question = question(args)?;
    let reference: workload::Reference = args.workload.parse()?;
    let cluster = Cluster::of(target).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| cluster.client.default_namespace().to_owned());
    let pod = Box::pin(workload::choose(&cluster, &namespace, &reference)).await?;
    let told = Box::pin(ask(&cluster, &namespace, &pod.name, &pod.version, &question)).await?;
    output::print_as(args.output.output, &told, |colours: &Colours| show::show(&told, *colours))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    version: &str,
    question: &Question,
) -> Result<Explanation, Error> {
    let cannot = |why: String| Error::Api { what: format!("ask the sidecar of pod {namespace}/{pod}"), why };
    let body = serde_json::to_vec(question).map_err(|error| cannot(error.to_string()))?;
    let request = Request::post("/explain").body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| cannot(error.to_string()))?;
    let place = Place { namespace, pod, what: "the sidecar", port: ports::ADMIN };
    let answer = reach::ask(cluster, place, request).await?;
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body)
            .map_err(|error| cannot(format!("it answers what this weft cannot read: {error}"))),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(cannot(format!(
            "it is of version {version}, which does not explain: restart the workload to get this one"
        ))),
        StatusCode::BAD_REQUEST => Err(Error::Question { why: answer.text() }),
        status => Err(cannot(format!("it answers {status}: {}", answer.text()))),
    }
}

/// What the command line asks.
///
/// # Errors
/// When it is no question.
fn question(args: &ExplainArgs) -> Result<Question, Error> {
    let unfit = |why: String| Error::Question { why };
    let (method, url) = match &*args.request {
        [url] => (String::new(), url.clone()),
        [method, url] => (method.clone(), url.clone()),
        _ => return Err(unfit("say [METHOD] URL".to_owned())),
    };
    let header = |line: &String| -> Result<(String, String), Error> {
        let (name, value) =
            line.split_once(':').ok_or_else(|| unfit(format!("{line:?} is no header: say 'NAME: VALUE'")))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    let headers: Result<Vec<_>, Error> = args.header.iter().map(header).collect();
    Ok(Question { method, url, headers: headers? })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_command_line_is_a_question() {
        let rows: &[(&[&str], Result<&str, &str>)] = &[
            (&["http://reviews/v2"], Ok(" http://reviews/v2")),
            (
                &["POST", "http://reviews/", "-H", "x-user: a", "-H", "x: b:c"],
                Ok("POST http://reviews/ x-user=a x=b:c"),
            ),
            (&["-H", "a:", "grpc://reviews/pkg.Svc/Call"], Ok(" grpc://reviews/pkg.Svc/Call a=")),
            (&["http://reviews/", "-H", "x-user"], Err("'NAME: VALUE'")),
        ];
        for (line, expected) in rows {
            let line = ["weft", "explain", "deploy/web"].iter().chain(*line);
            let Command::Explain(args) = Cli::try_parse_from(line.clone()).unwrap().command else { panic!("{line:?}") };
            let said = question(&args).map_err(|error| error.to_string()).map(|question| {
                let headers = question.headers.iter().map(|(name, value)| format!(" {name}={value}"));
                format!("{} {}{}", question.method, question.url, headers.collect::<String>())
            });
            match (said, expected) {
                (Ok(said), Ok(expected)) => assert_eq!(said, *expected),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{said}"),
                (said, _) => panic!("{said:?}"),
            }
        }
        for line in [&["weft", "explain", "deploy/web"][..], &["weft", "explain", "deploy/web", "a", "b", "c"]] {
            assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
