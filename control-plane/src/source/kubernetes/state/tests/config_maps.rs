//! Policies and the ConfigMaps that they name.

use serde_json::json;

use super::*;
use crate::source::files::served;

fn policy(name: &str, config_maps: &[&str]) -> Served {
    let refs: Vec<_> = config_maps.iter().map(|name| json!({"group": "", "kind": "ConfigMap", "name": name})).collect();
    let json = json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "db"}],
            "validation": {"hostname": "db.example.com", "caCertificateRefs": refs},
        },
    });
    served::read(Kind::BackendTlsPolicy, &mut serde_json::Deserializer::from_str(&json.to_string())).unwrap()
}

fn config_map(name: &str, ca: &str) -> Served {
    let json = json!({"metadata": {"name": name, "namespace": "shop"}, "data": {"ca.crt": ca, "password": "secret"}});
    served::read(Kind::ConfigMap, &mut serde_json::Deserializer::from_str(&json.to_string())).unwrap()
}

fn in_shop(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

/// What an edit has, in few words.
fn changes(state: &mut State) -> Vec<String> {
    let Some(edit) = state.take(&Unenforced::default()) else { return Vec::new() };
    let said = |key: &ObjectKey| format!("{} {}", crate::source::kind_name(key.kind), key.name.name);
    let upserts = edit.objects.upserts.iter().map(|object| said(&object.key()));
    let removes = edit.objects.removes.iter().map(|key| format!("-{}", said(key)));
    upserts.chain(removes).collect()
}

#[test]
fn the_first_edit_waits_for_what_policies_name_and_a_later_policy_waits_alone() {
    let mut state = others_listed();
    list(&mut state, &[good("a", 1)]);
    state.on(Kind::BackendTlsPolicy, Happening::Init);
    state.on(Kind::BackendTlsPolicy, Happening::InitApply(policy("p", &["ca"])));
    state.on(Kind::BackendTlsPolicy, Happening::InitDone);
    assert!(!state.is_due(), "proxies would be told that there are no certificates");
    assert_eq!(state.config_maps(), [in_shop("ca")].into());
    state.on_config_map(in_shop("ca"), Some(config_map("ca", "x")));
    assert_eq!(changes(&mut state), ["Namespace a", "BackendTLSPolicy p", "ConfigMap ca"]);

    state.on(Kind::BackendTlsPolicy, Happening::Apply(policy("q", &["ca", "other"])));
    assert!(!state.is_due());
    state.on(Kind::Namespace, Happening::Apply(good("b", 1)));
    assert_eq!(changes(&mut state), ["Namespace b"], "nothing else waits");
    state.on_config_map(in_shop("other"), None);
    assert_eq!(changes(&mut state), ["BackendTLSPolicy q"], "that it is not there is an answer");
}

#[test]
fn a_config_map_is_kept_while_a_policy_names_it() {
    let mut state = started(&[]);
    state.on_config_map(in_shop("ca"), Some(config_map("ca", "x")));
    assert!(!state.is_due(), "nobody has named it");
    for name in ["p", "q"] {
        state.on(Kind::BackendTlsPolicy, Happening::Apply(policy(name, &["ca"])));
    }
    state.on_config_map(in_shop("ca"), Some(config_map("ca", "x")));
    assert_eq!(changes(&mut state), ["BackendTLSPolicy p", "BackendTLSPolicy q", "ConfigMap ca"]);
    state.on_config_map(in_shop("ca"), Some(config_map("ca", "x")));
    assert!(!state.is_due(), "as it was");
    state.on_config_map(in_shop("ca"), None);
    assert_eq!(changes(&mut state), ["-ConfigMap ca"]);
    let other = Served { form: Form::Bad, ..config_map("ca", "y") };
    state.on_config_map(in_shop("ca"), Some(other));
    assert!(!state.is_due(), "one that cannot be used is none yet");
    state.on_config_map(in_shop("ca"), Some(config_map("ca", "y")));
    assert_eq!(changes(&mut state), ["ConfigMap ca"]);
    state.on(Kind::BackendTlsPolicy, Happening::Delete(policy("p", &["ca"])));
    assert_eq!(changes(&mut state), ["-BackendTLSPolicy p"]);
    state.on(Kind::BackendTlsPolicy, Happening::Apply(policy("q", &[])));
    assert_eq!(changes(&mut state), ["BackendTLSPolicy q", "-ConfigMap ca"]);
    assert!(state.config_maps().is_empty());
}
