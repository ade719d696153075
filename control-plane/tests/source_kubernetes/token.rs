//! A token that the API server no longer accepts, and the one that takes its place in the file.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleRef, Subject};

use super::*;

/// The API server goes on accepting for this long what it accepted before.
const REMEMBERED: Duration = Duration::from_secs(11);
/// A token's file is read again after 50 s at the latest, and a refused watch asks again after 5.
const REREAD: Duration = Duration::from_secs(60);

const ACCOUNT: &str = "token-watcher";

impl Cluster {
    /// Makes the account, and a token of it.
    async fn account_with_token(&self) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let account = ServiceAccount { metadata: named(ACCOUNT), ..ServiceAccount::default() };
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let spec = TokenRequestSpec { expiration_seconds: Some(600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_token_that_is_refused_takes_nothing_away_and_the_next_one_is_taken_up() {
    let cluster = Cluster::new("token").await;
    cluster.apply(&[service("web"), slice("web", &["10.9.0.1"])]).await;
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    let name = format!("{}-watcher", cluster.namespace);
    let binding = ClusterRoleBinding {
        metadata: named(&name),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: "cluster-admin".to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: ACCOUNT.to_owned(),
            namespace: Some(cluster.namespace.clone()),
            ..Subject::default()
        }]),
    };
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, cluster.account_with_token().await).unwrap();

    let (relay, mut through) = Relay::new(&cluster.config).await;
    through.auth_info = kube::config::AuthInfo {
        token_file: Some(file.to_str().unwrap().to_owned()),
        ..kube::config::AuthInfo::default()
    };
    let mut known = Known::new(through).await;
    let endpoints = cluster.key(Kind::EndpointSlice, "web-x");
    assert_eq!(known.addresses(&endpoints), ["10.9.0.1"]);

    // A token is one of an account's uid: another account of the same name makes it void at once, as time does later.
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    accounts.delete(ACCOUNT, &DeleteParams::default()).await.unwrap();
    let next = cluster.account_with_token().await;
    tokio::time::sleep(REMEMBERED).await;
    relay.up.send_replace(false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    relay.up.send_replace(true);
    cluster.apply(&[slice("web", &["10.9.0.2"])]).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        known.take(Duration::from_millis(500)).await;
        assert_eq!(known.addresses(&endpoints), ["10.9.0.1"], "it cannot know, and what it knows stays");
    }

    std::fs::write(&file, next).unwrap();
    let began = Instant::now();
    while known.addresses(&endpoints) != ["10.9.0.2"] {
        assert!(began.elapsed() < REREAD, "the new token is not taken up");
        known.take(Duration::from_secs(1)).await;
    }
    println!("the new token was taken up after {:?}", began.elapsed());
    known.assert_is_fresh(cluster.config.clone()).await;
    bindings.delete(&name, &DeleteParams::default()).await.unwrap();
    cluster.end().await;
}
