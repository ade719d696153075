//! What replicas are asked about a route: who has its Service in the form that is served now? Pure. Asked by the leader for
//! `weft.dev/Programmed` (`kubernetes/`) and by anybody who counts (`counts.rs`).

use prost::Message as _;
use weft_proto::v1::{NamespaceVersion, ServiceQuestion};

use super::programmed::About;
use crate::translate::Translated;

/// The first of `questions` that have at most `most` bytes together, but at least one. The others stay due.
pub(super) fn within<A>(
    questions: impl Iterator<Item = (A, ServiceQuestion)>,
    most: usize,
) -> (Vec<A>, Vec<ServiceQuestion>) {
    let mut bytes = 0;
    let mut fits = |question: &ServiceQuestion| {
        let first = bytes == 0;
        // And its tag and length.
        bytes += question.encoded_len() + 6;
        first || bytes <= most
    };
    questions.take_while(|(_, question)| fits(question)).unzip()
}

/// Who has the Service as we serve it?
pub(super) fn question(about: &About, state: &Translated) -> ServiceQuestion {
    let versions = state.service_versions(&about.service);
    let (version, forms) = versions.map(|versions| (versions.default, versions.by_namespace)).unwrap_or_default();
    ServiceQuestion {
        service: about.service.to_string(),
        version,
        namespaces: forms.into_iter().map(|(namespace, version)| NamespaceVersion { namespace, version }).collect(),
        client_namespace: about.client_namespace.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_no_longer_than_a_replica_reads() {
        let question = |bytes: usize| ServiceQuestion { service: "s".repeat(bytes), ..ServiceQuestion::default() };
        for (row, sizes, expected) in [
            ("nothing is due", &[][..], 0),
            ("all fit", &[300, 300, 300], 3),
            ("the rest stays due", &[400, 400, 400], 2),
            ("one that is too long is asked alone", &[5000, 10], 1),
        ] {
            let questions = sizes.iter().map(|bytes| ((), question(*bytes)));
            let (about, services) = within(questions, 1000);
            assert_eq!((about.len(), services.len()), (expected, expected), "{row}");
        }
    }
}
