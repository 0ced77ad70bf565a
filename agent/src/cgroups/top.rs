//! Whether a cgroup contains all processes of a node, if the hierarchy's root is not visible.

use std::{fs, io, path::Path};

use super::{Tree, name};

/// Whether both the node's pods and its other processes are below `top`, as in a node that is a container (kind, k3d,
/// minikube). It is false if only the pods' part of the hierarchy is mounted.
///
/// # Errors
/// When `top` cannot be read.
pub fn is_top_of_a_node(top: &Path) -> io::Result<bool> {
    if Tree::read(top)?.pods.is_empty() {
        return Ok(false);
    }
    let mut has_others = false;
    for entry in fs::read_dir(top)? {
        let entry = entry?;
        let Ok(file_name) = entry.file_name().into_string() else { continue };
        if !entry.file_type()?.is_dir() || file_name.starts_with(name::OF_CHECKS) {
            continue;
        }
        if name::lies_in_a_slice(&file_name) {
            return Ok(false);
        }
        // A cgroup that enables controllers for its children has no processes itself (`cgroup_vet_subtree_control_enable`
        // in kernel/cgroup/cgroup.c), and the kubelet needs them: the node's own are beside the pods'.
        has_others |= !name::is_for_pods(&file_name);
    }
    Ok(has_others)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "5f2ad9b27b4d4c2f9d8a6f0e1c3b5a7d";

    /// An ordinary file system does: only names matter.
    fn is_top(folders: &[&str]) -> bool {
        let top = tempfile::tempdir().unwrap();
        let pod = format!("pod{UID}");
        for folder in folders {
            fs::create_dir_all(top.path().join(folder.replace("POD", &pod))).unwrap();
        }
        is_top_of_a_node(top.path()).unwrap()
    }

    #[test]
    fn where_the_rest_of_the_node_is_beside_the_pods_it_is_the_top() {
        for node in [
            ["init.scope", "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-POD.slice"],
            [
                "system.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-POD.slice",
            ],
            ["init", "kubepods/burstable/POD"],
        ] {
            assert!(is_top(&node), "{node:?}");
        }
    }

    #[test]
    fn a_part_that_has_the_pods_is_not_the_top() {
        for part in [
            // kubepods.slice and one of its children.
            ["kubepods-burstable.slice/kubepods-burstable-POD.slice", "kubepods-besteffort.slice"],
            ["kubepods-burstable-POD.slice/a.scope", "kubepods-burstable-POD.slice/b.scope"],
            ["burstable/POD", "besteffort"],
            // kubelet.slice
            ["kubelet.service", "kubelet-kubepods.slice/kubelet-kubepods-POD.slice"],
        ] {
            assert!(!is_top(&part), "{part:?}");
        }
    }

    #[test]
    fn without_pods_or_with_nothing_but_them_nothing_says_that_it_is_the_top() {
        assert!(!is_top(&["init.scope", "system.slice"]));
        assert!(!is_top(&["kubepods.slice/kubepods-POD.slice"]));
        assert!(!is_top(&["kubepods.slice/kubepods-POD.slice", "sockline-check-1"]));
    }
}
