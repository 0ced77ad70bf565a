//! The options of the commands that read a node.

use std::{ops::Deref, path::PathBuf};

use clap::Args;

use super::output::{ListOutput, Output};
use crate::{
    admin,
    dataplane::{Pins, Snapshot},
    model::object::ObjectName,
    mounts,
};

/// Where the kernel state is.
#[derive(Debug, Clone, Args)]
pub struct KernelArgs {
    /// The agent's folder in a BPF file system [default: the mounted one]
    #[arg(long, value_name = "DIR", env = "SOCKLINE_BPF_ROOT")]
    bpf_root: Option<PathBuf>,
}

/// Where the kernel state is, and how to print a list of what is in it.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    kernel: KernelArgs,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: ListOutput,
}

/// Where the node's state is.
#[derive(Debug, Clone, Args)]
pub struct StateArgs {
    #[command(flatten)]
    kernel: KernelArgs,
    /// The agent's admin socket
    #[arg(long, value_name = "PATH", env = "SOCKLINE_ADMIN_SOCKET", default_value = admin::DEFAULT_SOCKET)]
    pub admin_socket: PathBuf,
}

/// Where the node's state is, and how to print it.
#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

impl Deref for NodeArgs {
    type Target = StateArgs;

    fn deref(&self) -> &StateArgs {
        &self.state
    }
}

impl Deref for StateArgs {
    type Target = KernelArgs;

    fn deref(&self) -> &KernelArgs {
        &self.kernel
    }
}

impl Deref for ListArgs {
    type Target = KernelArgs;

    fn deref(&self) -> &KernelArgs {
        &self.kernel
    }
}

impl KernelArgs {
    /// Opens the kernel state, whether an agent runs or not.
    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let bpffs = mounts::bpffs_for_reading(self.bpf_root.as_deref())?;
        Ok(Snapshot::open(Pins::in_bpffs(&bpffs))?)
    }
}

/// Parses the name of an object with its namespace.
pub fn object_name(text: &str) -> Result<ObjectName, String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("it must be NAMESPACE/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_namespace() {
        assert_eq!(object_name("shop/cart"), Ok(ObjectName::new("shop", "cart")));
        for wrong in ["cart", "/cart", "shop/", "a/b/c", ""] {
            object_name(wrong).unwrap_err();
        }
    }
}
