//! Any sequence of edits ends where a fresh start does.

use proptest::prelude::*;

use super::refused::SLICE;
use super::*;

/// Documents that are all good; some are the same object again.
fn document() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let ip = prop::sample::select(vec!["10.0.0.1", "10.0.0.2"]);
    prop_oneof![
        (name.clone(), 1u16..4).prop_map(|(name, port)| service(name, port)),
        (0u32..3).prop_map(route),
        (name.clone(), ip.clone()).prop_map(|(name, ip)| pod(name, ip, "", "", "")),
        (name.clone(), ip, prop::sample::select(vec!["a", "b"])).prop_map(|(name, ip, service)| {
            SLICE
                .replace("name: e", &format!("name: {name}"))
                .replace("name: s}", &format!("name: {service}}}"))
                .replace("10.0.0.1", ip)
                .replace("service-name: s", &format!("service-name: {service}"))
        }),
        (name, 0u8..3).prop_map(|(name, zone)| format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: z{zone}}}}}\n"
        )),
    ]
}

/// A stroke: files and what they hold afterwards.
fn stroke() -> impl Strategy<Value = Vec<(&'static str, Option<String>)>> {
    let file = prop::sample::select(vec!["a.yaml", "b.yaml", "c/d.yaml"]);
    let text = prop::option::weighted(0.8, prop::collection::vec(document(), 0..4).prop_map(|d| d.join("---\n")));
    prop::collection::vec((file, text), 1..3)
}

fn without_generations(mut objects: Vec<Object>) -> Vec<Object> {
    objects.iter_mut().for_each(|object| meta_mut(object).generation = 0);
    objects
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn edits_end_where_a_fresh_start_does(strokes in prop::collection::vec(stroke(), 1..6)) {
        let mut state = State::default();
        let mut files: BTreeMap<&str, String> = BTreeMap::new();
        let mut consumer: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        for stroke in &strokes {
            let mut changes = BTreeMap::new();
            for (name, text) in stroke {
                match text {
                    Some(text) => { files.insert(name, text.clone()); }
                    None => { files.remove(name); }
                }
                let content = text.clone().map_or(Content::Gone, Content::Text);
                changes.insert((*name).to_owned(), content);
            }
            if let Some(edit) = state.apply(changes, Vec::new()) {
                for key in edit.objects.removes {
                    prop_assert!(consumer.remove(&key).is_some(), "{} removed without having been there", describe(&key));
                }
                consumer.extend(edit.objects.upserts.into_iter().map(|object| (object.key(), object)));
            }
        }
        let mut fresh = State::default();
        let changes = files.into_iter().map(|(name, text)| (name.to_owned(), Content::Text(text))).collect();
        fresh.apply(changes, Vec::new());
        prop_assert_eq!(without_generations(objects(&state)), without_generations(objects(&fresh)));
        prop_assert_eq!(&state.problems, &fresh.problems);
        // And what a consumer has put together from the batches is what is in force.
        let mut held: Vec<_> = objects(&state);
        held.sort_by_key(Object::key);
        prop_assert_eq!(consumer.into_values().collect::<Vec<_>>(), held);
    }
}
