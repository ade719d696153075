//! A rule's or target's filters: wire → `route::Filters`. A kind that is not known is refused, never dropped silently: a
//! filter may be what keeps traffic safe.

use std::fmt::Display;
use std::sync::Arc;

use http::StatusCode;
use weft_proto::v1;
use weft_proto::v1::filter::Kind;

use super::backend::{Intern, compile_backend};
use super::error::{CompileError, In};
use super::values::{at_least_1_ms, port_number};
use crate::config::model::Backend;
use crate::route::{
    Abort, Cors, CorsConfig, Fault, Filters, Fraction, HeaderEdit, InvalidCors, InvalidFilter, Mirror, PathEdit,
    Redirect, RequestFilter, Rewrite,
};

/// What filters name beyond themselves.
pub(super) struct Around<'a> {
    pub(super) node: &'a str,
    pub(super) interned: &'a mut dyn Intern,
    /// The port that clients call.
    pub(super) called: u16,
    /// Every backend named so far, each once.
    pub(super) backends: &'a mut Vec<Arc<Backend>>,
}

impl Around<'_> {
    /// Remembers a backend.
    pub(super) fn names(&mut self, backend: &Arc<Backend>) {
        if self.backends.iter().all(|known| known.name != backend.name) {
            self.backends.push(Arc::clone(backend));
        }
    }
}

pub(super) fn compile_filters(
    wire: &[v1::Filter],
    around: &mut Around<'_>,
) -> Result<Filters<Arc<Backend>>, CompileError> {
    let (mut request, mut response) = (Vec::new(), Vec::new());
    for (index, filter) in wire.iter().enumerate() {
        let mut compile = || -> Result<(), CompileError> {
            match &filter.kind {
                Some(Kind::RequestHeaders(modifier)) => {
                    request.push(RequestFilter::Headers(compile_modifier(modifier).field("request_headers")?));
                }
                Some(Kind::ResponseHeaders(modifier)) => {
                    response.push(compile_modifier(modifier).field("response_headers")?);
                }
                Some(Kind::Redirect(redirect)) => {
                    let redirect = compile_redirect(redirect, around.called).field("redirect")?;
                    request.push(RequestFilter::Redirect(redirect));
                }
                Some(Kind::UrlRewrite(rewrite)) => {
                    let rewrite = compile_rewrite(rewrite).field("url_rewrite")?;
                    request.push(RequestFilter::Rewrite(rewrite));
                }
                Some(Kind::Mirror(mirror)) => {
                    request.push(RequestFilter::Mirror(compile_mirror(mirror, around).field("mirror")?));
                }
                Some(Kind::Cors(cors)) => {
                    request.push(RequestFilter::Cors(Box::new(compile_cors(cors).field("cors")?)));
                }
                Some(Kind::Fault(fault)) => {
                    request.push(RequestFilter::Fault(Box::new(compile_fault(fault).field("fault")?)));
                }
                None => return Err(CompileError::new("a filter that this version of the sidecar does not know")),
            }
            Ok(())
        };
        compile().field(format_args!("filters[{index}]"))?;
    }
    Ok(Filters::new(request, response))
}

fn compile_modifier(wire: &v1::HeaderModifier) -> Result<HeaderEdit, InvalidFilter> {
    fn pairs(headers: &[v1::Header]) -> impl Iterator<Item = (&str, &str)> {
        headers.iter().map(|header| (header.name.as_str(), header.value.as_str()))
    }
    HeaderEdit::new(wire.remove.iter().map(String::as_str), pairs(&wire.set), pairs(&wire.add))
}

fn compile_redirect(wire: &v1::Redirect, called: u16) -> Result<Redirect, CompileError> {
    let path = compile_path(wire.path.as_ref()).field("path")?;
    let port = if wire.port == 0 { 0 } else { port_number(wire.port).field("port")? };
    Ok(Redirect::new(&wire.scheme, &wire.hostname, path, port, wire.status, called)?)
}

fn compile_rewrite(wire: &v1::UrlRewrite) -> Result<Rewrite, CompileError> {
    let path = compile_path(wire.path.as_ref()).field("path")?;
    Rewrite::new(&wire.hostname, path).field("hostname")
}

fn compile_path(wire: Option<&v1::PathModifier>) -> Result<Option<PathEdit>, CompileError> {
    use v1::path_modifier::Kind;
    let Some(wire) = wire else { return Ok(None) };
    match &wire.kind {
        Some(Kind::Full(path)) => Ok(Some(PathEdit::full(path)?)),
        Some(Kind::Prefix(prefix)) => Ok(Some(PathEdit::prefix(&prefix.matched, &prefix.replacement)?)),
        None => Err(CompileError::new("a kind this version does not know")),
    }
}

fn compile_mirror(wire: &v1::Mirror, around: &mut Around<'_>) -> Result<Mirror<Arc<Backend>>, CompileError> {
    let missing = || CompileError::new("there is none");
    let backend = wire.backend.as_ref().ok_or_else(missing).field("backend")?;
    let backend = compile_backend(backend, around.node, around.interned).field("backend")?;
    let share = Fraction::new(wire.numerator, wire.denominator)?;
    around.names(&backend);
    Ok(Mirror { backend, share })
}

fn compile_fault(wire: &v1::Fault) -> Result<Fault, CompileError> {
    let delay = |delay: &v1::FaultDelay| {
        let fixed = at_least_1_ms(delay.fixed.as_ref()).field("fixed")?;
        let fixed = fixed.ok_or_else(|| CompileError::new("there is none")).field("fixed")?;
        Ok::<_, CompileError>((Fraction::new(delay.numerator, delay.denominator)?, fixed))
    };
    let abort = |abort: &v1::FaultAbort| {
        let outside = |what| CompileError::new(format!("{what} is no status that a FaultInjection may ask for"));
        let status = u16::try_from(abort.http_status).ok().filter(|status| (200..600).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let grpc_status = u8::try_from(abort.grpc_status).ok().filter(|status| (1..=16).contains(status));
        let abort_with = Abort {
            status: status.ok_or_else(|| outside(abort.http_status)).field("http_status")?,
            grpc_status: grpc_status.ok_or_else(|| outside(abort.grpc_status)).field("grpc_status")?,
            by: (&*wire.name).into(),
        };
        Ok::<_, CompileError>((Fraction::new(abort.numerator, abort.denominator)?, abort_with))
    };
    Ok(Fault::new(
        wire.delay.as_ref().map(delay).transpose().field("delay")?,
        wire.abort.as_ref().map(abort).transpose().field("abort")?,
    ))
}

fn compile_cors(wire: &v1::Cors) -> Result<Cors, InvalidCors> {
    Cors::new(CorsConfig {
        allow_origins: &wire.allow_origins,
        allow_credentials: wire.allow_credentials,
        allow_methods: &wire.allow_methods,
        allow_headers: &wire.allow_headers,
        expose_headers: &wire.expose_headers,
        max_age: wire.max_age_seconds,
    })
}

/// One text per filter, for `/config`. Only of what compiled.
pub(super) fn readable(wire: &[v1::Filter]) -> Vec<String> {
    let or = |text: &str, other: &'static str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let path = |path: Option<&v1::PathModifier>| match path.and_then(|path| path.kind.as_ref()) {
        None => "path as it is".to_owned(),
        Some(v1::path_modifier::Kind::Full(path)) => format!("path {path}"),
        Some(v1::path_modifier::Kind::Prefix(edit)) => {
            format!("path {}… to {}…", edit.matched, or(&edit.replacement, "/"))
        }
    };
    let names = |names: &mut dyn Iterator<Item = &str>| names.collect::<Vec<_>>().join(", ");
    let headers = |which: &dyn Display, modifier: &v1::HeaderModifier| {
        let changed = modifier.set.iter().chain(&modifier.add).map(|header| header.name.as_str());
        format!("{which} headers: {}", names(&mut changed.chain(modifier.remove.iter().map(String::as_str))))
    };
    let text = |filter: &v1::Filter| match filter.kind.as_ref()? {
        Kind::RequestHeaders(modifier) => Some(headers(&"request", modifier)),
        Kind::ResponseHeaders(modifier) => Some(headers(&"response", modifier)),
        Kind::Redirect(redirect) => {
            let (scheme, host) = (or(&redirect.scheme, "same scheme"), or(&redirect.hostname, "same host"));
            Some(format!("redirect {}: {scheme}, {host}, {}", redirect.status, path(redirect.path.as_ref())))
        }
        Kind::UrlRewrite(rewrite) => {
            Some(format!("rewrite: {}, {}", or(&rewrite.hostname, "same host"), path(rewrite.path.as_ref())))
        }
        Kind::Mirror(mirror) => {
            let backend = mirror.backend.as_ref()?;
            let (of, all) = (mirror.numerator, mirror.denominator);
            Some(format!("mirror {of} of {all} to {}:{}", backend.service, backend.port))
        }
        Kind::Cors(cors) => Some(format!("CORS: {}", names(&mut cors.allow_origins.iter().map(String::as_str)))),
        Kind::Fault(fault) => {
            let delay = fault.delay.as_ref().map(|delay| {
                let ms = delay.fixed.as_ref().map_or(0, |fixed| fixed.value);
                format!("{} of {} wait {ms} ms", delay.numerator, delay.denominator)
            });
            let abort = fault.abort.as_ref().map(|abort| {
                let (of, all) = (abort.numerator, abort.denominator);
                format!("{of} of {all} are answered {} (gRPC {})", abort.http_status, abort.grpc_status)
            });
            let does: Vec<String> = delay.into_iter().chain(abort).collect();
            Some(format!("FaultInjection {}: {}", fault.name, does.join(", ")))
        }
    };
    wire.iter().filter_map(text).collect()
}
