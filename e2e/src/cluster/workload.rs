//! Deployments, StatefulSets, Jobs and bare pods of our apps, as JSON objects for `kubectl apply`. A test says what matters to
//! it; the rest is the same everywhere: one container `app`, its image, little CPU and memory, records on the node.
//!
//! Nothing of the mesh is in here: pods are opted in by their namespace, as users do it.

use serde_json::{Map, Value, json};

use super::records::ON_NODE;

const IMAGE: &str = "weft.test/apps:1";

/// An app to be run.
#[derive(Debug, Clone)]
pub struct Workload {
    namespace: String,
    name: String,
    replicas: u32,
    template: Value,
    strategy: Value,
}

impl Workload {
    /// An app that runs `arguments`. Its pods carry label `app: NAME`.
    pub fn new(namespace: &str, name: &str, arguments: &[&str]) -> Self {
        let template = json!({
            "metadata": {"labels": {"app": name}, "annotations": {}},
            "spec": {
                "terminationGracePeriodSeconds": 30,
                "containers": [{
                    "name": "app",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "args": arguments,
                    "env": [
                        {"name": "WEFT_E2E_LOG", "value": "/records"},
                        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    ],
                    "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}},
                    "volumeMounts": [{"name": "records", "mountPath": "/records"}],
                }],
                "volumes": [{"name": "records", "hostPath": {"path": format!("{ON_NODE}/{namespace}")}}],
            },
        });
        Self { namespace: namespace.to_owned(), name: name.to_owned(), replicas: 1, template, strategy: Value::Null }
    }

    /// An HTTP server on port 8080 that calls itself like its pod, with a readiness probe.
    pub fn server(namespace: &str, name: &str) -> Self {
        Self::new(namespace, name, &["http-server", "--name", "$(POD)", "--finish-ms", "2000"])
            .port("http", 8080)
            .probe("readinessProbe", json!({"httpGet": {"path": "/", "port": "http"}}))
    }

    /// A client of `rate` requests a second to `address`, for ever, whose ids begin with its pod's name.
    pub fn load(namespace: &str, name: &str, address: &str, rate: u32) -> Self {
        let rate = rate.to_string();
        Self::new(namespace, name, &["load", "--address", address, "--rate", &rate, "--id", "$(POD)"])
    }

    /// A client that does nothing but be there to `exec` in.
    pub fn idle(namespace: &str, name: &str) -> Self {
        Self::new(namespace, name, &["tcp-server", "--listen", "127.0.0.1:9999"])
    }

    /// More arguments.
    pub fn args(self, arguments: &[&str]) -> Self {
        self.edit("/spec/containers/0/args", |all| {
            if let Value::Array(all) = all {
                all.extend(arguments.iter().map(|&argument| argument.into()));
            }
        })
    }

    /// A named port.
    pub fn port(self, name: &str, port: u16) -> Self {
        let port = json!({"name": name, "containerPort": port});
        self.edit("/spec/containers/0", |container| push(&mut container["ports"], port))
    }

    /// A probe: `readinessProbe` and so on, asked every second.
    pub fn probe(self, kind: &str, mut probe: Value) -> Self {
        probe["periodSeconds"] = json!(1);
        match kind {
            "startupProbe" => probe["failureThreshold"] = json!(60),
            // Ten pods that start at once on two cores are slow to answer, which is no reason to leave nobody.
            "readinessProbe" => (probe["timeoutSeconds"], probe["failureThreshold"]) = (json!(3), json!(5)),
            _ => {}
        }
        self.edit("/spec/containers/0", |container| container[kind] = probe)
    }

    /// How many.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// A label of its pods.
    pub fn label(self, name: &str, value: &str) -> Self {
        self.edit("/metadata/labels", |labels| labels[name] = value.into())
    }

    /// An annotation of its pods.
    pub fn annotation(self, name: &str, value: &str) -> Self {
        self.edit("/metadata/annotations", |annotations| annotations[name] = value.into())
    }

    /// Seconds from SIGTERM to SIGKILL.
    pub fn grace(self, seconds: u32) -> Self {
        self.edit("/spec", |spec| spec["terminationGracePeriodSeconds"] = seconds.into())
    }

    /// Whatever else, at a JSON pointer into the pod template.
    ///
    /// # Panics
    /// When the template has no such place.
    pub fn edit(mut self, pointer: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let place = self.template.pointer_mut(pointer);
        edit(place.unwrap_or_else(|| panic!("the pod template has no {pointer}")));
        self
    }

    /// A rollout that starts new pods one at a time, and ends old ones as new ones are ready.
    pub fn one_by_one(mut self) -> Self {
        self.strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        self
    }

    /// As a Deployment.
    pub fn deployment(&self) -> Value {
        let mut object = self.controller("apps/v1", "Deployment");
        if !self.strategy.is_null() {
            object["spec"]["strategy"] = self.strategy.clone();
        }
        object
    }

    /// As a StatefulSet of a headless Service.
    pub fn stateful_set(&self, service: &str) -> Value {
        let mut object = self.controller("apps/v1", "StatefulSet");
        object["spec"]["serviceName"] = service.into();
        object["spec"]["podManagementPolicy"] = "Parallel".into();
        object
    }

    /// As a Job that is tried once.
    pub fn job(&self) -> Value {
        let mut object = self.object("batch/v1", "Job");
        object["spec"] = self.job_spec();
        object
    }

    /// As a bare pod that is not begun again.
    pub fn pod(&self) -> Value {
        let mut object = self.object("v1", "Pod");
        for (name, value) in self.template["metadata"].as_object().into_iter().flatten() {
            object["metadata"][name] = value.clone();
        }
        object["spec"] = self.template["spec"].clone();
        object["spec"]["restartPolicy"] = "Never".into();
        object
    }

    fn job_spec(&self) -> Value {
        let mut template = self.template.clone();
        template["spec"]["restartPolicy"] = "Never".into();
        json!({"backoffLimit": 0, "template": template})
    }

    fn controller(&self, version: &str, kind: &str) -> Value {
        let mut object = self.object(version, kind);
        object["spec"] = json!({
            "replicas": self.replicas,
            "selector": {"matchLabels": {"app": self.template["metadata"]["labels"]["app"]}},
            "template": self.template,
        });
        object
    }

    fn object(&self, version: &str, kind: &str) -> Value {
        json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": self.name, "namespace": self.namespace},
        })
    }
}

/// A CronJob that runs `workload` every minute.
pub fn cron_job(workload: &Workload) -> Value {
    let mut object = workload.object("batch/v1", "CronJob");
    object["spec"] = json!({"schedule": "* * * * *", "jobTemplate": {"spec": workload.job_spec()}});
    object
}

/// A namespace with labels.
pub fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    let labels: Map<String, Value> = labels.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A Service for the pods labelled `app: APP`; ports are `(name, port, targetPort)`.
pub fn service(namespace: &str, name: &str, app: &str, ports: &[(&str, u16, &str)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|&(name, port, target)| {
            // A number where it is one.
            let target = target.parse::<u16>().map_or_else(|_| Value::from(target), Value::from);
            json!({"name": name, "port": port, "targetPort": target})
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": app}, "ports": ports},
    })
}

fn push(array: &mut Value, value: Value) {
    match array {
        Value::Array(array) => array.push(value),
        other => *other = json!([value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_template_is_in_every_kind() {
        let server = Workload::server("shop", "web").label("version", "1").annotation("a", "b").replicas(3);
        let deployment = server.deployment();
        assert_eq!(deployment["spec"]["replicas"], 3);
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["labels"], json!({"app": "web", "version": "1"}));
        let pod = server.pod();
        assert_eq!(pod["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(pod["spec"]["containers"], template["spec"]["containers"]);
        assert_eq!(pod["metadata"]["namespace"], "shop");
        let cron = cron_job(&server);
        let inner = cron.pointer("/spec/jobTemplate/spec/template/spec/restartPolicy");
        assert_eq!(inner, Some(&json!("Never")));
    }

    #[test]
    fn a_target_port_is_a_number_or_a_name() {
        let service = service("shop", "web", "web", &[("http", 80, "http"), ("grpc", 81, "50051")]);
        let ports = &service["spec"]["ports"];
        assert_eq!(ports[0]["targetPort"], "http");
        assert_eq!(ports[1]["targetPort"], 50051);
    }
}
