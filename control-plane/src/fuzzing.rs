//! What must hold for anything users write and workloads send: one function per fuzz target of `fuzz/`, which panics
//! where it does not. Compiled for tests and under libFuzzer (`cfg(fuzzing)`) only. `weft_sidecar::fuzzing` says why here.

use weft_proto::SpiffeId;

use crate::identity;
pub use crate::source::files::fuzzing::manifests;

/// A signing request: what is signed is for whom the caller proved to be.
pub fn signing_request(data: &[u8]) {
    let Ok(proven) = SpiffeId::new("weft.local", "shop", "web") else { return };
    if let Ok(checked) = identity::check(data, &proven) {
        assert_eq!(*checked.id(), proven);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    #[test]
    fn what_fuzzing_kept_still_holds() {
        let targets: [(&str, Target); 2] =
            [("manifests", |data| manifests(data, &mut |_| {})), ("signing_request", signing_request)];
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (target, run) in targets {
            let files = std::fs::read_dir(corpus.join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
            let mut count = 0;
            for file in files {
                let path = file.unwrap().path();
                println!("{}", path.display());
                run(&std::fs::read(&path).unwrap());
                count += 1;
            }
            assert!(count > 0, "{target} has no corpus");
        }
    }
}
