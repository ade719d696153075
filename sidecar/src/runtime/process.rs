//! What we ask of the kernel for this process.
//!
//! * The limit of open files: each request to a new connection costs two descriptors, and container runtimes start us with
//!   a soft limit of 1,024 for the sake of programs that use `select(2)`; what we may have is the hard limit.
//! * No transparent huge pages: there is a sidecar in every pod, and a heap of a few megabytes, spread thinly over pages of
//!   two megabytes, is resident several times over.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Memory in small pages. To be called before there is much of it.
pub(super) fn small_pages() {
    if let Err(error) = prctl::set_thp_disable(true) {
        tracing::warn!(%error, "memory stays in huge pages, more of it than is needed");
    }
}

/// Raises the soft limit to the hard one. Without it we run all the same, and `accept` backs off when there are none left.
pub(super) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| (soft, hard)));
    match raised {
        Ok((soft, hard)) => tracing::debug!(soft, hard, "limit of open files raised"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it was"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_off() {
        small_pages();
        assert!(prctl::get_thp_disable().unwrap());
    }

    #[test]
    fn the_soft_limit_is_the_hard_one() {
        raise_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
