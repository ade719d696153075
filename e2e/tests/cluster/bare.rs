//! The cluster without Weft: that what the other tests lean on is there.

use std::time::Duration;

use weft_e2e::cluster::Cluster;

const APPS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: bare}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: bare}
spec:
  replicas: 2
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: app
        image: weft.test/apps:1
        imagePullPolicy: Never
        args: [http-server, --name, server]
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: bare}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: http, name: http}]
"#;

const CLIENT: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: client, namespace: bare}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: app
        image: weft.test/apps:1
        imagePullPolicy: Never
        args: [load, --address, "server:80", --rate, "50", --seconds, "2"]
"#;

/// Pods, probes, Services, DNS, Jobs, `logs` and `exec`: a Job finds a Service by name and all its requests are answered.
pub(crate) fn a_cluster_without_weft_works() {
    let cluster = Cluster::of_environment().unwrap();
    cluster.apply(APPS).unwrap();
    cluster.rolled_out("bare", "deployment/server", Duration::from_secs(60)).unwrap();
    // kube-proxy takes a moment to hear of them; until then the Service's address refuses.
    let answers = || {
        let got = cluster.ask("bare", "deployment/server", &["http://server/"])?;
        Ok(got.iter().any(|got| got.status == 200).then_some(()))
    };
    cluster.wait_for("an answer from the Service", Duration::from_secs(20), answers).unwrap();
    cluster.apply(CLIENT).unwrap();
    cluster.kubectl(&["-n", "bare", "wait", "--for=condition=Complete", "job/client", "--timeout=60s"]).unwrap();
    let log = cluster.kubectl(&["-n", "bare", "logs", "job/client"]).unwrap();
    let answered = log.lines().filter(|line| line.contains(r#""status":200"#)).count();
    assert!(answered >= 95, "{answered} requests answered:\n{log}");
    let said = cluster.kubectl(&["-n", "bare", "exec", "deployment/server", "--", "/weft-e2e", "--help"]).unwrap();
    assert!(said.contains("Usage:"), "{said}");
    cluster.kubectl(&["delete", "namespace", "bare", "--wait=false"]).unwrap();
}
