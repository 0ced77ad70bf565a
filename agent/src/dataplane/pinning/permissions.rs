//! Only root may open pins: a process that can open a map's pin can redirect connections.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

const FOLDER: u32 = 0o700;
const PIN: u32 = 0o600;

/// Makes a folder of pins, with everything in it, accessible to this process's user (root) only.
/// bpffs creates pins by the umask of the process that pins, and another process may have changed
/// them.
pub fn restrict(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let is_symlink = found.file_type().is_symlink();
    let wanted = if found.is_dir() { FOLDER } else { PIN };
    // Not the target of a symbolic link: nothing here creates any.
    if !is_symlink {
        // The folder first, so that no process gets in meanwhile.
        if (found.uid(), found.gid()) != (uid, gid) {
            tracing::warn!(path = %path.display(), uid = found.uid(), "a pin belonged to another user");
            chown(path, Some(uid), Some(gid))?;
        }
        if found.mode() & 0o7777 != wanted {
            let mode = format_args!("{:o}", found.mode() & 0o7777).to_string();
            tracing::debug!(path = %path.display(), mode, "a pin had another mode");
            fs::set_permissions(path, fs::Permissions::from_mode(wanted))?;
        }
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            match restrict(&entry?.path()) {
                // Pins are added and removed while maps grow.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_files_that_others_could_open_are_closed() {
        let root = tempfile::tempdir().unwrap();
        let (maps, pin) = (root.path().join("maps"), root.path().join("maps/PIN"));
        fs::create_dir(&maps).unwrap();
        fs::write(&pin, "").unwrap();
        for (path, mode) in [(&maps, 0o777), (&pin, 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        restrict(root.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(root.path()), mode(&maps), mode(&pin)), (0o700, 0o700, 0o600));
    }
}
