//! The mount table of this process: `mountinfo`, see proc_pid_mountinfo(5).
//!
//! The `procfs` crate also parses it, but leaves the octal escapes in paths, and one line that it does not
//! know makes the whole table an error.

use std::{collections::HashSet, fs, io, path::PathBuf};

pub const PATH: &str = "/proc/self/mountinfo";

/// A line of the mount table.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// The type of the file system.
    pub kind: String,
    /// The path in the file system that is mounted here.
    pub root: String,
    pub path: PathBuf,
}

/// Reads all mounts, in the table's order.
///
/// # Errors
/// When the table cannot be read.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string(PATH)?))
}

/// Parses a mount table. Of several mounts on one mount point, only the last one is visible; the others are
/// not returned.
pub fn parse(table: &str) -> Vec<Mount> {
    let mut paths = HashSet::new();
    let mut mounts: Vec<Mount> = table
        .lines()
        .filter_map(parse_line)
        .rev()
        .filter(|mount| paths.insert(mount.path.clone()))
        .collect();
    mounts.reverse();
    mounts
}

/// `id parent device root mount-point options optional-fields… - type source super-options`
fn parse_line(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, path) = (fields.next()?, fields.next()?);
    let kind = file_system.split(' ').next()?;
    Some(Mount { kind: kind.to_owned(), root: unescape(root), path: unescape(path).into() })
}

/// The kernel escapes blanks and backslashes in octal (`mangle` in `fs/proc_namespace.c`).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_its_type_its_root_and_its_unescaped_path() {
        let table = "\
22 28 0:21 / /proc rw shared:13 - proc proc rw
90 25 0:4 net:[4026532203] /run/netns/with\\040blank rw shared:1 master:2 - nsfs nsfs rw
no mount
";
        let mount = |kind: &str, root: &str, path: &str| Mount {
            kind: kind.to_owned(),
            root: root.to_owned(),
            path: path.into(),
        };
        let expected = [
            mount("proc", "/", "/proc"),
            mount("nsfs", "net:[4026532203]", "/run/netns/with blank"),
        ];
        assert_eq!(parse(table), expected);
    }

    #[test]
    fn a_covered_mount_is_not_returned() {
        let table = "\
1 0 0:1 / /mnt rw - cgroup2 cgroup2 rw
2 1 0:2 / /mnt rw - tmpfs tmpfs rw
";
        let kinds: Vec<String> = parse(table).into_iter().map(|mount| mount.kind).collect();
        assert_eq!(kinds, ["tmpfs"]);
    }
}
