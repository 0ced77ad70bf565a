//! The initramfs, the virtual machine's only file system: a cpio archive for all kernels, and one for each.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{init, kernels::Kernel};
use crate::{process, repo, test::binaries::Binary};

/// Programs of this machine that the tests call.
const PROGRAMS: [&str; 5] = ["ip", "cat", "sleep", "true", "unshare"];

/// Mount points, and folders that programs expect.
const FOLDERS: [&str; 8] = ["bin", "dev", "etc", "proc", "run", "sys", "tests", "tmp"];

/// A cpio archive in the kernel's format (`Documentation/driver-api/early-userspace/buffer-format.rst`).
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
}

impl Archive {
    fn new() -> Self {
        Self { bytes: Vec::new(), folders: BTreeSet::new() }
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let name = path.to_str().context("a path in the archive is not UTF-8")?;
        let size = u32::try_from(content.len()).context("a file of more than 4 GiB")?;
        let head = cpio::newc::Builder::new(name).mode(mode);
        let mut entry = head.write(&mut self.bytes, size);
        entry.write_all(content).and_then(|()| entry.finish().map(drop)).context("writing cpio")
    }

    /// A folder and its parents, each once.
    fn folder(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        self.entry(path, libc::S_IFDIR | 0o755, &[])
    }

    /// A program or any other file.
    fn file(&mut self, at: &Path, content: &[u8]) -> Result<()> {
        let path = at.strip_prefix("/").unwrap_or(at);
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        self.entry(path, libc::S_IFREG | 0o755, content)
    }

    /// A copy of a file of this machine.
    fn copy(&mut self, from: &Path, at: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(at, &content)
    }

    /// Ends the archive on a boundary of four bytes, because another one follows.
    fn finish(self) -> Result<Vec<u8>> {
        let mut bytes = cpio::newc::trailer(self.bytes).context("ending the cpio archive")?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(bytes)
    }
}

/// The archive for all kernels: programs, the agent, the tests and their fixtures, with the shared libraries of all
/// that is not static, at the same paths as on this machine.
pub(super) fn base(busybox: &Path, agent: &Path, tests: &[Binary]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in FOLDERS {
        archive.folder(Path::new(folder))?;
    }
    archive.file(Path::new("/init"), init::SCRIPT.as_bytes())?;
    archive.copy(busybox, Path::new("/bin/busybox"))?;
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = repo::which(name)?.with_context(|| format!("there is no `{name}` here"))?;
        libraries.extend(libraries_of(&program)?);
        archive.copy(&program, &Path::new("/bin").join(name))?;
    }
    archive.copy(agent, Path::new("/bin/sockline"))?;
    for test in tests {
        libraries.extend(libraries_of(&test.path)?);
        archive.file(&Path::new("/tests").join(&test.name), &stripped(&test.path)?)?;
    }
    for library in libraries {
        archive.copy(&library, &library)?;
    }
    copy_folder(&mut archive, &repo::root().join("tests/fixtures"))?;
    archive.finish()
}

/// The archive of one kernel: its modules and the job.
pub(super) fn for_kernel(kernel: &Kernel, job: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for (number, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        // Modules are loaded in the order of their names.
        archive.copy(module, Path::new(&format!("/modules/{number}-{name}")))?;
    }
    archive.file(Path::new("/job"), job.as_bytes())?;
    archive.finish()
}

/// Copies a folder to the same path: tests read fixtures at the path of their sources.
fn copy_folder(archive: &mut Archive, folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.is_dir() {
            copy_folder(archive, &path)?;
        } else {
            archive.copy(&path, &path)?;
        }
    }
    Ok(())
}

/// Debug information is nine tenths of a test.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let copy = folder.path().join("stripped");
    process::output(repo::command("strip")?.arg("-o").arg(&copy).arg(program))?;
    fs::read(&copy).with_context(|| format!("reading the stripped {}", program.display()))
}

/// The shared libraries that a program loads, with the loader itself.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = repo::command("ldd")?;
    let libraries = match process::output(ldd.arg(program).env("LC_ALL", "C")) {
        Ok(table) => parse_ldd(&table),
        // For a static program, ldd fails with "not a dynamic executable".
        Err(error) if format!("{error:#}").contains("not a dynamic") => Some(Vec::new()),
        Err(error) => return Err(error),
    };
    match libraries {
        Some(libraries) => Ok(libraries),
        None => bail!("a shared library of {} is missing", program.display()),
    }
}

/// Lines are `name => /path (0x…)`, or `/path (0x…)` for the loader; the kernel's vDSO has no path.
fn parse_ldd(table: &str) -> Option<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in table.lines() {
        if line.contains("not found") {
            return None;
        }
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        libraries.extend(path.map(PathBuf::from));
    }
    Some(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_without_the_vdso() {
        let table = "\tlinux-vdso.so.1 (0x00007fb595faa000)\n\
                     \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fb595a1e000)\n\
                     \t/lib64/ld-linux-x86-64.so.2 (0x00007fb595fac000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(table).unwrap(), expected.map(PathBuf::from));
    }

    #[test]
    fn a_missing_library_is_an_error() {
        assert_eq!(parse_ldd("\tlibbpf.so.1 => not found\n"), None);
    }

    #[test]
    fn a_file_is_added_with_its_folders_once() {
        let mut archive = Archive::new();
        archive.file(Path::new("/a/b/one"), b"1").unwrap();
        archive.file(Path::new("/a/b/two"), b"22").unwrap();
        let bytes = archive.finish().unwrap();
        let mut rest = bytes.as_slice();
        let mut names = Vec::new();
        loop {
            let entry = cpio::newc::Reader::new(rest).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            names.push(entry.entry().name().to_owned());
            rest = entry.finish().unwrap();
        }
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two"]);
        assert_eq!(bytes.len() % 4, 0);
    }
}
