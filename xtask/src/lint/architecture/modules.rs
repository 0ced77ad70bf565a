//! The modules of the workspace: which there are, and in which files.
//!
//! `cargo-modules` prints a graph of one crate at a time and does not say on which line a path stands; `syn` does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Metadata, TargetKind};
use syn::{Attribute, Item};

use super::paths::Contents;

/// Index of a module in [`Workspace::modules`].
pub(super) type Id = usize;

/// A file, or a `mod name { … }` in one.
pub(super) struct Module {
    /// The name by its file: `agent/model/index`. Modules within a file share it.
    pub(super) name: String,
    /// Relative to the repository.
    pub(super) file: PathBuf,
    pub(super) root: Id,
    pub(super) parent: Option<Id>,
    pub(super) children: BTreeMap<String, Id>,
    pub(super) contents: Contents,
}

#[derive(Default)]
pub(super) struct Workspace {
    pub(super) modules: Vec<Module>,
    /// Roots of libraries, by the name that code of other crates uses.
    pub(super) libraries: BTreeMap<String, Id>,
}

impl Workspace {
    /// Reads the libraries and programs of the workspace; not its integration tests and build scripts.
    pub(super) fn read(repository: &Path, metadata: &Metadata) -> Result<Self> {
        let mut workspace = Self::default();
        for package in metadata.workspace_packages() {
            for target in &package.targets {
                let is = |kind: &TargetKind| target.kind.contains(kind);
                if is(&TargetKind::Lib) || is(&TargetKind::Bin) {
                    let root = workspace.read_crate(repository, target.src_path.as_std_path())?;
                    if is(&TargetKind::Lib) {
                        workspace.libraries.insert(target.name.replace('-', "_"), root);
                    }
                }
            }
        }
        Ok(workspace)
    }

    /// Reads a crate from its root file.
    pub(super) fn read_crate(&mut self, repository: &Path, file: &Path) -> Result<Id> {
        let root = self.add(repository, file, None)?;
        self.read_file(repository, root)?;
        Ok(root)
    }

    /// All module names, with their files.
    pub(super) fn files(&self) -> BTreeMap<String, PathBuf> {
        self.modules.iter().map(|module| (module.name.clone(), module.file.clone())).collect()
    }

    fn add(&mut self, repository: &Path, file: &Path, parent: Option<Id>) -> Result<Id> {
        let file = file.strip_prefix(repository).unwrap_or(file).to_owned();
        let id = self.modules.len();
        self.modules.push(Module {
            name: name_of(&file),
            file,
            root: parent.map_or(id, |parent| self.modules[parent].root),
            parent,
            children: BTreeMap::new(),
            contents: Contents::default(),
        });
        Ok(id)
    }

    fn read_file(&mut self, repository: &Path, id: Id) -> Result<()> {
        let path = repository.join(&self.modules[id].file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let file = syn::parse_file(&text).with_context(|| format!("parsing {}", path.display()))?;
        // `mod.rs`, `lib.rs`, `main.rs` and roots of other names have their modules beside them.
        let is_root = self.modules[id].parent.is_none();
        let folder = if is_root || path.ends_with("mod.rs") {
            path.parent().context("a file is in a folder")?.to_owned()
        } else {
            path.with_extension("")
        };
        self.read_items(repository, id, &folder, &file.items)
    }

    fn read_items(
        &mut self,
        repository: &Path,
        id: Id,
        folder: &Path,
        items: &[Item],
    ) -> Result<()> {
        let (contents, nested) = Contents::of(items);
        self.modules[id].contents = contents;
        for module in nested {
            let name = module.ident.to_string();
            let child = match &module.content {
                Some((_, items)) => {
                    let file = self.modules[id].file.clone();
                    let child = self.add(repository, &file, Some(id))?;
                    self.read_items(repository, child, &folder.join(&name), items)?;
                    child
                }
                None => {
                    let file = find(folder, &name, &module.attrs)?;
                    let child = self.add(repository, &file, Some(id))?;
                    self.read_file(repository, child)?;
                    child
                }
            };
            self.modules[id].children.insert(name, child);
        }
        Ok(())
    }
}

/// `agent/src/model/mod.rs` is `agent/model`, `agent/src/lib.rs` is `agent`.
fn name_of(file: &Path) -> String {
    let stem = file.with_extension("");
    let mut parts: Vec<_> = stem
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .filter(|part| part != "src")
        .collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts.join("/")
}

fn find(folder: &Path, name: &str, attributes: &[Attribute]) -> Result<PathBuf> {
    let named = attributes.iter().find(|attribute| attribute.path().is_ident("path"));
    if let Some(syn::Meta::NameValue(value)) = named.map(|attribute| &attribute.meta)
        && let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &value.value
    {
        return Ok(folder.join(path.value()));
    }
    let places = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
    match places.into_iter().find(|place| place.is_file()) {
        Some(place) => Ok(place),
        None => bail!("{} has no file for the module {name}", folder.display()),
    }
}
