//! The container of the agent in deploy/, as flags for podman.
//!
//! A field of a security context that is unknown here is an error: without it, the smoke test would run with
//! other rights than in a cluster.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use sockline_testbed::kustomize;

use crate::repo;

/// A container, with the pod's settings for all containers.
pub(super) struct Container {
    pod: Value,
    container: Value,
}

impl Container {
    /// The agent in deploy/base.
    pub(super) fn agent() -> Result<Self> {
        Self::of("deploy/base", "containers")
    }

    /// The cleanup of the overlay that uninstalls.
    pub(super) fn cleanup() -> Result<Self> {
        Self::of("deploy/overlays/uninstall", "initContainers")
    }

    /// The first of a list of containers in the DaemonSet of a kustomization.
    fn of(kustomization: &str, list: &str) -> Result<Self> {
        let objects = kustomize::render(&repo::root().join(kustomization))?;
        let daemon_set = objects.iter().find(|object| object["kind"] == "DaemonSet");
        let daemon_set = daemon_set.with_context(|| format!("{kustomization}: no DaemonSet"))?;
        let pod = daemon_set["spec"]["template"]["spec"].clone();
        let container = pod[list][0].clone();
        ensure!(container.is_object(), "{kustomization}: the DaemonSet has nothing in {list}");
        Ok(Self { pod, container })
    }

    pub(super) fn args(&self) -> Vec<String> {
        strings(&self.container["args"])
    }

    /// The security contexts of the container and of the pod. `seccomp` is the profile for RuntimeDefault.
    pub(super) fn security_flags(&self, seccomp: &str) -> Result<Vec<String>> {
        let mut flags = Vec::new();
        let own = object(&self.container["securityContext"])?;
        let pods = object(&self.pod["securityContext"])?;
        let (mut user, mut group) = (0, 0);
        for (field, value) in &own {
            match (field.as_str(), value) {
                ("privileged", Value::Bool(false)) => {}
                ("allowPrivilegeEscalation", Value::Bool(false)) => {
                    flags.push("--security-opt=no-new-privileges".to_owned());
                }
                ("readOnlyRootFilesystem", Value::Bool(true)) => {
                    flags.extend(["--read-only", "--read-only-tmpfs=false"].map(str::to_owned));
                }
                ("runAsUser", value) => user = value.as_u64().context("runAsUser")?,
                ("runAsGroup", value) => group = value.as_u64().context("runAsGroup")?,
                ("capabilities", value) => {
                    for (action, names) in object(value)? {
                        let names = strings(&names);
                        flags.extend(names.iter().map(|name| format!("--cap-{action}={name}")));
                    }
                }
                (field, value) => bail!("securityContext.{field}: {value} is unknown to this test"),
            }
        }
        flags.push(format!("--user={user}:{group}"));
        for (field, value) in &pods {
            match (field.as_str(), value["type"].as_str()) {
                ("seccompProfile", Some("RuntimeDefault")) => {
                    flags.push(format!("--security-opt=seccomp={seccomp}"));
                }
                ("seLinuxOptions", Some(kind)) => {
                    flags.push(format!("--security-opt=label=type:{kind}"));
                }
                _ => bail!("the pod's securityContext.{field}: {value} is unknown to this test"),
            }
        }
        ensure!(self.pod["hostNetwork"] == true, "hostNetwork is not true");
        flags.push("--network=host".to_owned());
        Ok(flags)
    }

    /// The environment; `given` replaces values that only a cluster knows.
    pub(super) fn environment_flags(&self, given: &[(&str, &str)]) -> Result<Vec<String>> {
        let mut flags: Vec<String> =
            given.iter().map(|(name, value)| format!("--env={name}={value}")).collect();
        for variable in self.container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().context("a variable without a name")?;
            if given.iter().any(|(given, _)| *given == name) {
                continue;
            }
            let value = variable["value"].as_str().with_context(|| {
                format!("the variable {name} has no value outside of a cluster")
            })?;
            flags.push(format!("--env={name}={value}"));
        }
        Ok(flags)
    }

    /// The mounts. `host` returns the folder to use for a path of the host.
    pub(super) fn mount_flags(&self, host: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
        let volumes = self.pod["volumes"].as_array().context("the pod has no volumes")?;
        let mut flags = Vec::new();
        for mount in self.container["volumeMounts"].as_array().into_iter().flatten() {
            let at = mount["mountPath"].as_str().context("a mount without a path")?;
            let volume = volumes
                .iter()
                .find(|volume| volume["name"] == mount["name"])
                .with_context(|| format!("{at} mounts no volume of the pod"))?;
            if let Some(path) = volume["hostPath"]["path"].as_str() {
                let source =
                    host(path).with_context(|| format!("no folder for the host path {path}"))?;
                let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
                let propagation = match mount["mountPropagation"].as_str() {
                    None => "",
                    Some("HostToContainer") => ",rslave",
                    Some(other) => bail!("mountPropagation: {other} is unknown to this test"),
                };
                flags.push(format!("--volume={source}:{at}:{mode}{propagation}"));
            } else if volume["emptyDir"]["medium"] == "Memory" {
                flags.push(format!("--mount=type=tmpfs,destination={at},tmpfs-size=1M"));
            } else {
                bail!("the volume {} is of a kind that is unknown to this test", volume["name"]);
            }
        }
        Ok(flags)
    }
}

fn object(value: &Value) -> Result<Map<String, Value>> {
    value.as_object().cloned().with_context(|| format!("{value} is not an object"))
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|value| value.as_str().map(ToOwned::to_owned)).collect()
}
