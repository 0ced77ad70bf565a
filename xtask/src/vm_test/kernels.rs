//! Kernels from Debian's packages: downloaded and unpacked into target/, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    apt::{self, Apt, Machine},
    term,
};

/// Suites with small package lists that have all versions between them. The releases themselves have older
/// builds of the same kernels.
const SUITES: [&str; 4] =
    ["bullseye-security", "bookworm-security", "trixie-security", "trixie-backports"];

/// The kernels for clouds, the smallest with all features of a node.
const FLAVOUR: &str = "-cloud-amd64";

/// The modules that the tests need, in the order of loading.
const MODULES: [&str; 4] = ["inet_diag", "tcp_diag", "udp_diag", "veth"];

/// The name for the newest kernel in the suites.
pub(super) const NEWEST: &str = "newest";

/// The machine that a kernel is booted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Plain,
    /// Two processors, the second without ticks while it runs one task (`nohz_full=`). All of Debian's kernels have
    /// CONFIG_NO_HZ_FULL.
    NohzFull,
}

impl Shape {
    /// The suffix of a kernel's name for [`Shape::NohzFull`].
    const NOHZ_FULL: &str = "+nohz-full";

    fn split(name: &str) -> (&str, Self) {
        match name.strip_suffix(Self::NOHZ_FULL) {
            Some(kernel) => (kernel, Self::NohzFull),
            None => (name, Self::Plain),
        }
    }

    pub(super) const fn processors(self) -> u32 {
        match self {
            Self::Plain => 1,
            Self::NohzFull => 2,
        }
    }

    /// Added to the command line of all kernels.
    pub(super) const fn command_line(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::NohzFull => " nohz_full=1 rcu_nocbs=1",
        }
    }
}

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// As on the command line: `5.10`, `newest`, `6.12+nohz-full`.
    pub(super) name: String,
    pub(super) shape: Shape,
    /// The package's version: `5.10.262-1`.
    pub(super) version: String,
    pub(super) image: PathBuf,
    /// Modules to load, in this order.
    pub(super) modules: Vec<PathBuf>,
}

/// The kernels with these names, from the folder if they are there, else from Debian.
pub(super) fn get(names: &[String], folder: &Path, busybox: &Path) -> Result<Vec<Kernel>> {
    let mut archive = None;
    names
        .iter()
        .map(|name| {
            let (version, _) = Shape::split(name);
            let place = folder.join(version);
            if let Ok(kernel) = Kernel::read(name, &place) {
                return Ok(kernel);
            }
            let archive = match &archive {
                Some(archive) => archive,
                None => archive.insert(Archive::open(folder)?),
            };
            archive
                .fetch(version, &place, busybox)
                .with_context(|| format!("getting Linux {version} from Debian"))?;
            Kernel::read(name, &place)
        })
        .collect()
}

impl Kernel {
    fn read(name: &str, place: &Path) -> Result<Self> {
        // Written last, so a folder without it is incomplete.
        let version = fs::read_to_string(place.join("version"))
            .with_context(|| format!("reading the kernel in {}", place.display()))?;
        let modules: Vec<_> = MODULES
            .iter()
            .map(|module| place.join(format!("{module}.ko")))
            .filter(|path| path.exists())
            .collect();
        let (_, shape) = Shape::split(name);
        Ok(Self { name: name.to_owned(), shape, version, image: place.join("vmlinuz"), modules })
    }
}

struct Archive {
    // Contains the package lists.
    scratch: tempfile::TempDir,
    apt: Apt,
}

impl Archive {
    fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let scratch =
            tempfile::tempdir_in(folder).context("making a folder for what is downloaded")?;
        term::doing("kernels", "reading Debian's package lists");
        let machine = Machine::read()?;
        let sources = SUITES.map(|suite| machine.source(suite));
        let apt = Apt::new(scratch.path(), &sources).context("reading Debian's package lists")?;
        Ok(Self { scratch, apt })
    }

    fn fetch(&self, name: &str, place: &Path, busybox: &Path) -> Result<()> {
        let (package, version) = self.newest_of(name)?;
        term::doing("kernels", &format!("downloading {package} {version}"));
        let unpacked = tempfile::tempdir_in(self.scratch.path())
            .context("making a folder to unpack a kernel in")?;
        for package in self.parts(&package, &version)? {
            let file = self.apt.download(&package, &version)?;
            apt::unpack(&file, unpacked.path())?;
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
        let files = files_below(unpacked.path())?;
        let _ = fs::remove_dir_all(place);
        fs::create_dir_all(place).with_context(|| format!("creating {}", place.display()))?;
        let image = files.iter().find(|path| name_of(path).starts_with("vmlinuz"));
        let image = image.with_context(|| format!("{package} has no vmlinuz"))?;
        copy(image, &place.join("vmlinuz"))?;
        for module in MODULES {
            take_module(module, &files, place, busybox)?;
        }
        fs::write(place.join("version"), version).context("noting the kernel's version")
    }

    /// The package of the newest kernel with a name, and its version. Debian removes old packages from the archive,
    /// so the full version cannot be pinned.
    fn newest_of(&self, name: &str) -> Result<(String, String)> {
        let prefix =
            if name == NEWEST { "linux-image-".to_owned() } else { format!("linux-image-{name}.") };
        // Packages such as `linux-image-6.12-cloud-amd64` only have a dependency.
        let is_kernel = |package: &str| {
            let version = package.strip_prefix("linux-image-");
            package.ends_with(FLAVOUR)
                && version.is_some_and(|version| {
                    version.starts_with(|first: char| first.is_ascii_digit())
                        && version.split(['-', '+']).next().unwrap_or_default().split('.').count()
                            == 3
                })
        };
        let names: Vec<String> =
            self.apt.names(&prefix)?.into_iter().filter(|name| is_kernel(name)).collect();
        let mut newest: Option<(String, String)> = None;
        for (package, version) in self.apt.versions(&names)? {
            let is_newer = match &newest {
                Some((_, than)) => apt::is_newer(&version, than)?,
                None => true,
            };
            if is_newer {
                newest = Some((package, version));
            }
        }
        newest.with_context(|| {
            format!("no package {prefix}*{FLAVOUR} in Debian's {}", SUITES.join(", "))
        })
    }

    /// The packages with a kernel's files: since 6.19 there are several.
    fn parts(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let is_part = |name: &String| {
            ["linux-binary-", "linux-modules-"].iter().any(|part| name.starts_with(part))
        };
        let parts = self.apt.dependencies(package, version)?.into_iter().filter(is_part);
        Ok(parts.chain([package.to_owned()]).collect())
    }
}

/// Copies a module, unpacked, unless it is built into the kernel.
fn take_module(module: &str, files: &[PathBuf], place: &Path, busybox: &Path) -> Result<()> {
    let to = place.join(format!("{module}.ko"));
    let [plain, packed] = ["ko", "ko.xz"].map(|kind| format!("{module}.{kind}"));
    let find = |name: &str| files.iter().find(|path| name_of(path) == name);
    if let Some(path) = find(&plain) {
        return copy(path, &to);
    }
    if let Some(path) = find(&packed) {
        let output = Command::new(busybox).args(["unxz", "-c"]).arg(path).output();
        let output = output.with_context(|| format!("starting {}", busybox.display()))?;
        ensure!(output.status.success(), "unpacking {}", path.display());
        return fs::write(&to, output.stdout).with_context(|| format!("writing {}", to.display()));
    }
    let lists = files.iter().filter(|path| name_of(path) == "modules.builtin");
    let built_in = lists.filter_map(|path| fs::read_to_string(path).ok());
    if !built_in
        .flat_map(|list| list.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
        .any(|line| line.ends_with(&format!("/{plain}")))
    {
        bail!("the kernel has no module {module}");
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
        // Ignores links: some point out of the folder.
        let kind = entry.file_type().context("asking what a file is")?;
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
