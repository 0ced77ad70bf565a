//! The names of the hierarchy's folders.

use std::path::Path;

/// The prefix of the cgroups that `sockline check` creates.
pub const OF_CHECKS: &str = "sockline-check-";

/// The minimum length of a pod's UID: a static pod's is an MD5 hash of 32 digits, the others are UUIDs.
const SHORTEST_UID: usize = 32;

/// The pod's UID in the name of a cgroup, if it is a pod's cgroup.
///
/// `kubepods-burstable-podUID.slice` with the systemd driver, where the uid's dashes are
/// underscores; `podUID` with the cgroupfs driver (`pkg/kubelet/cm/cgroup_manager_linux.go`).
pub(super) fn pod_uid(name: &str) -> Option<String> {
    let (last, is_slice) = match name.strip_suffix(".slice") {
        Some(unit) => (unit.rsplit('-').next()?, true),
        None => (name, false),
    };
    let uid = last.strip_prefix("pod")?;
    let uid = if is_slice { uid.replace('_', "-") } else { uid.to_owned() };
    let is_uid = uid.len() >= SHORTEST_UID
        && uid.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase() || c == '-');
    is_uid.then_some(uid)
}

/// The UID of the pod that a cgroup belongs to, by its path: it is the pod's own, or below that.
#[must_use]
pub fn pod_of(path: &Path) -> Option<String> {
    path.iter().find_map(|folder| pod_uid(folder.to_str()?))
}

/// The service of systemd that a cgroup belongs to, by its path: the innermost one.
#[must_use]
pub fn service_of(path: &Path) -> Option<String> {
    let folders = path.iter().filter_map(|folder| folder.to_str());
    let is_service =
        |folder: &&str| folder.strip_suffix(".service").is_some_and(|unit| !unit.is_empty());
    folders.rev().find(is_service).map(ToOwned::to_owned)
}

/// Whether pods can be below a folder of this name, which is not a pod's own. A systemd host can have hundreds of
/// other slices and units.
pub(super) fn may_hold_pods(name: &str) -> bool {
    const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    !matches!(name, "system.slice" | "user.slice" | "machine.slice")
        && !UNITS.iter().any(|suffix| name.ends_with(suffix))
}

/// Whether a folder of this name is a pod's, or the kubelet's for pods: no other processes of the node are in it.
pub(super) fn is_for_pods(name: &str) -> bool {
    matches!(name, "burstable" | "besteffort")
        || name.contains("kubepods")
        || pod_uid(name).is_some()
}

/// Whether a folder of this name can only be in a slice: `a-b.slice` is below `a.slice` (systemd.slice(5)).
pub(super) fn lies_in_a_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some_and(|unit| unit.trim_start_matches('-').contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0b7e7c2e-95a1-4c0e-8f0e-3f5a3f2a9d11";

    #[test]
    fn a_pod_is_known_by_the_name_that_either_driver_gives_its_cgroup() {
        let escaped = UUID.replace('-', "_");
        for name in [
            format!("pod{UUID}"),
            format!("kubepods-pod{escaped}.slice"),
            format!("kubepods-besteffort-pod{escaped}.slice"),
            format!("kubelet-kubepods-burstable-pod{escaped}.slice"),
        ] {
            assert_eq!(pod_uid(&name).as_deref(), Some(UUID), "{name}");
        }
        let hash = "5f2ad9b27b4d4c2f9d8a6f0e1c3b5a7d";
        let static_pod = format!("kubepods-burstable-pod{hash}.slice");
        assert_eq!(pod_uid(&static_pod).as_deref(), Some(hash));
    }

    #[test]
    fn whatever_is_below_a_pods_cgroup_belongs_to_the_pod() {
        let pod = format!("/kubepods/burstable/pod{UUID}");
        for path in [pod.clone(), format!("{pod}/container/nested")] {
            assert_eq!(pod_of(Path::new(&path)).as_deref(), Some(UUID), "{path}");
        }
        assert_eq!(pod_of(Path::new("/system.slice/kubelet.service")), None);
    }

    #[test]
    fn processes_of_a_service_are_below_its_cgroup() {
        let of = |path: &str| service_of(Path::new(path));
        assert_eq!(of("/system.slice/kubelet.service").as_deref(), Some("kubelet.service"));
        let nested = "/user.slice/user-1.slice/user@1.service/app.slice/a.service/below";
        assert_eq!(of(nested).as_deref(), Some("a.service"));
        for other in ["/", "/user.slice/session-3.scope", "/.service"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn other_names_are_no_pods() {
        for name in [
            "kubepods.slice",
            "kubepods-burstable.slice",
            "podman.slice",
            "pod",
            "burstable",
            "cri-containerd-5f2ad9b27b4d4c2f9d8a6f0e1c3b5a7d5f2ad9b27b4d4c2f9d8a6f0e1c3b5a7d.scope",
            "libpod_pod_5f2ad9b27b4d4c2f9d8a6f0e1c3b5a7d5f2ad9b27b4d4c2f9d8a6f0e1c3b5a7d.slice",
        ] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }

    #[test]
    fn only_slices_of_the_host_itself_are_passed_over() {
        assert!(
            ["kubepods", "kubepods.slice", "kubelet.slice", "docker"]
                .iter()
                .all(|n| may_hold_pods(n))
        );
        assert!(!["system.slice", "a.service", "init.scope"].iter().any(|n| may_hold_pods(n)));
    }
}
