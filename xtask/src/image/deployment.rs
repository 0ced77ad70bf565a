//! What deploy/ says about the agent's container, as flags for podman.
//!
//! Every field of a security context must be known here: one that is not would make the trial run with
//! other rights than a cluster would give.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use sockline_testbed::kustomize;

use crate::repo;

/// A container of a pod, with what the pod says about all of its containers.
pub(super) struct Container {
    pod: Value,
    container: Value,
}

impl Container {
    /// The agent in deploy/base.
    pub(super) fn agent() -> Result<Self> {
        Self::of("deploy/base", "containers")
    }

    /// The clean-up of the overlay that uninstalls.
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

    /// The container's security context and the pod's. `seccomp` is the profile that stands for
    /// RuntimeDefault.
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
                (field, value) => bail!("securityContext.{field}: {value} is not known here"),
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
                _ => bail!("the pod's securityContext.{field}: {value} is not known here"),
            }
        }
        ensure!(self.pod["hostNetwork"] == true, "hostNetwork is not true");
        flags.push("--network=host".to_owned());
        Ok(flags)
    }

    /// The environment, but for what is left out or given here.
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

    /// The mounts. `host` says which folder stands for a path of the host.
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
                let source = host(path).with_context(|| format!("nothing stands for {path}"))?;
                let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
                let propagation = match mount["mountPropagation"].as_str() {
                    None => "",
                    Some("HostToContainer") => ",rslave",
                    Some(other) => bail!("mountPropagation: {other} is not known here"),
                };
                flags.push(format!("--volume={source}:{at}:{mode}{propagation}"));
            } else if volume["emptyDir"]["medium"] == "Memory" {
                flags.push(format!("--mount=type=tmpfs,destination={at},tmpfs-size=1M"));
            } else {
                bail!("the volume {} is of no kind that is known here", volume["name"]);
            }
        }
        Ok(flags)
    }
}

fn object(value: &Value) -> Result<Map<String, Value>> {
    value.as_object().cloned().with_context(|| format!("{value} is no object"))
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|value| value.as_str().map(ToOwned::to_owned)).collect()
}
