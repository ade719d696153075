//! Manifests as anybody might write them: never a panic, and what is taken away is gone. See `crate::fuzzing`.

use std::collections::BTreeMap;

use super::state::{Content, State};
use super::{decode, documents};
use crate::translate::{Lookup, MeshConfig, Resource, Translator, View};

/// Versions of one file, one after another, each behind a form feed; then none. `each` is shown every resource that a
/// proxy of the default namespace would be sent.
pub fn manifests(data: &[u8], each: &mut dyn FnMut(&Resource)) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut state = State::default();
    let mut translator = Translator::new(MeshConfig::default());
    translator.apply(crate::model::Batch::default());
    let view = View { namespace: "default".to_owned() };
    let mut apply = |content: Content| {
        let Some(edit) = state.apply(BTreeMap::from([("a.yaml".to_owned(), content)]), Vec::new()) else { return };
        for problem in &edit.problems {
            assert!(!problem.message.starts_with("reading this document failed inside Weft"), "{problem}");
        }
        let (world, touched) = translator.apply(edit.objects);
        for (type_url, names) in &touched.names {
            for name in names {
                if let Lookup::Found(resource) = world.lookup(type_url, name, &view) {
                    each(&resource);
                }
            }
        }
        for addr in touched.own {
            for type_url in [weft_proto::type_url::WORKLOAD, weft_proto::type_url::INBOUND_POLICY] {
                if let Lookup::Found(resource) = world.own(type_url, addr) {
                    each(&resource);
                }
            }
        }
    };
    for version in text.split('\u{c}').take(4) {
        // `State` would catch a panic.
        for document in documents::split(version) {
            decode::decode(&document);
        }
        apply(Content::Text(version.to_owned()));
    }
    apply(Content::Gone);
    assert!(state.is_empty(), "the file is gone and something is left");
}
