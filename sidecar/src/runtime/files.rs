//! The limit of open files. Each request to a new connection costs two descriptors, and container runtimes start us with
//! a soft limit of 1,024 for the sake of programs that use `select(2)`; what we may have is the hard limit.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
    fn the_soft_limit_is_the_hard_one() {
        raise_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
