//! The directory in bpffs that keeps the kernel state over restarts.
//!
//! ```text
//! BPFFS/sockline/v5/maps/NAME       the maps
//! BPFFS/sockline/v5/maps/inner/ID   the maps in those that hold maps
//! BPFFS/sockline/v5/links/HOOK      the attachments
//! BPFFS/sockline/replaced_1_v4      another layout, of which only the counts are still needed
//! BPFFS/sockline/removed_v1         what is being removed
//! ```
//!
//! `v5` is the layout version. Agents of different layouts do not use each other's maps, but a newer one takes over
//! the links of an older one.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use sockline_ebpf::LAYOUT_VERSION;

use super::permissions;
use crate::dataplane::error::DataplaneError;

/// The name of the directory of inner maps, among the maps.
pub const INNER: &str = "inner";
/// The name of the directory of links, in that of a layout.
const LINKS: &str = "links";

#[derive(Debug, Clone)]
pub struct Pins {
    /// `BPFFS/sockline`
    pub(super) root: PathBuf,
}

impl Pins {
    #[must_use]
    pub fn in_bpffs(bpffs: &Path) -> Self {
        Self { root: bpffs.join("sockline") }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.directory().join("maps")
    }

    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    #[must_use]
    pub fn inner_maps(&self) -> PathBuf {
        self.maps().join(INNER)
    }

    #[must_use]
    pub fn links(&self) -> PathBuf {
        Self::links_of(&self.directory())
    }

    /// The links in the directory of a layout.
    #[must_use]
    pub fn links_of(layout: &Path) -> PathBuf {
        layout.join(LINKS)
    }

    /// Whether a removed pin was a link's.
    #[must_use]
    pub fn is_of_link(pin: &Path) -> bool {
        pin.components().any(|part| part.as_os_str() == LINKS)
    }

    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Makes the directory that all layouts share, and that the lock is on.
    pub fn create_root(&self) -> Result<(), DataplaneError> {
        make(&self.root)
    }

    /// Makes the directories of this layout.
    pub fn create(&self) -> Result<(), DataplaneError> {
        make(&self.inner_maps())?;
        make(&self.links())
    }

    /// Makes the pins accessible to root only.
    pub fn close_to_others(&self) -> Result<(), DataplaneError> {
        permissions::restrict(&self.root).map_err(|error| {
            DataplaneError::io(format!("restrict access to {}", self.root.display()), error)
        })
    }
}

fn make(directory: &Path) -> Result<(), DataplaneError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        DataplaneError::io(format!("make the folder {}", directory.display()), error)
    })
}
