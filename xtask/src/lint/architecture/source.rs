//! The modules of the workspace, with the paths that their code names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Metadata, TargetKind};
use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility,
    visit::{self, Visit},
};

/// Index of a module in [`Workspace::modules`].
pub(super) type Id = usize;

/// A path as it stands in the code.
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// A file, or a `mod name { … }` in one.
pub(super) struct Module {
    /// The name by its file: `agent/model/index`. Modules within a file share it.
    pub(super) name: String,
    /// Relative to the repository.
    pub(super) file: PathBuf,
    pub(super) root: Id,
    pub(super) parent: Option<Id>,
    pub(super) children: BTreeMap<String, Id>,
    /// What `use` brings into scope, by the name that it has here.
    pub(super) imports: BTreeMap<String, Vec<String>>,
    /// The paths of `use path::*`.
    pub(super) globs: Vec<Vec<String>>,
    /// Names of items that are defined here.
    pub(super) items: BTreeSet<String>,
    pub(super) mentions: Vec<Mention>,
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
            imports: BTreeMap::new(),
            globs: Vec::new(),
            items: BTreeSet::new(),
            mentions: Vec::new(),
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
        let mut reader = Reader { module: &mut self.modules[id], nested: Vec::new() };
        items.iter().for_each(|item| reader.visit_item(item));
        let nested = std::mem::take(&mut reader.nested);
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

/// Collects what a module's items say.
struct Reader<'a, 'ast> {
    module: &'a mut Module,
    nested: Vec<&'ast ItemMod>,
}

impl Reader<'_, '_> {
    fn mention(&mut self, path: Vec<String>, span: Span) {
        if path.len() > 1 {
            self.module.mentions.push(Mention { path, line: span.start().line });
        }
    }

    fn import(&mut self, tree: &UseTree, mut path: Vec<String>, span: Span) {
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.import(&part.tree, path, part.ident.span());
            }
            UseTree::Name(part) => {
                let name = part.ident.to_string();
                self.bring(path, &name, &name, part.ident.span());
            }
            UseTree::Rename(part) => {
                let (name, here) = (part.ident.to_string(), part.rename.to_string());
                self.bring(path, &name, &here, part.ident.span());
            }
            UseTree::Glob(_) => {
                self.module.globs.push(path.clone());
                // A glob of a single segment, such as `super::*`, is a use as well.
                self.module.mentions.push(Mention { path, line: span.start().line });
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, path.clone(), span));
            }
        }
    }

    fn bring(&mut self, mut path: Vec<String>, name: &str, here: &str, span: Span) {
        if name == "self" {
            let last = path.last().cloned().unwrap_or_default();
            let here = if here == "self" { last } else { here.to_owned() };
            self.module.imports.insert(here, path.clone());
        } else {
            path.push(name.to_owned());
            self.module.imports.insert(here.to_owned(), path.clone());
        }
        self.module.mentions.push(Mention { path, line: span.start().line });
    }

    /// Macros are not parsed: every `a::b::c` in one is taken for a path.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut start = Span::call_site();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.mention(std::mem::take(&mut path), start);
                    }
                    if path.is_empty() {
                        start = ident.span();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                }
                TokenTree::Group(group) => {
                    self.mention(std::mem::take(&mut path), start);
                    self.tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.mention(std::mem::take(&mut path), start);
                    colons = 0;
                }
            }
        }
        self.mention(path, start);
    }
}

/// Whether an item is compiled for tests only.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg") && says_test(list.tokens.clone())
    })
}

/// `test`, or `all(test, …)`.
fn says_test(tokens: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    match tokens.as_slice() {
        [TokenTree::Ident(word)] => word == "test",
        [TokenTree::Ident(word), TokenTree::Group(group)] if word == "all" => {
            group.stream().into_iter().any(|token| token.to_string() == "test")
        }
        _ => false,
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_in(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

impl<'ast> Visit<'ast> for Reader<'_, 'ast> {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes_of(item)) {
            return;
        }
        self.module.items.extend(name_in(item));
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.nested.push(module);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, Vec::new(), item.use_token.span);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let Some(first) = path.segments.first() {
            self.mention(segments, first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, macro_: &'ast Macro) {
        self.visit_path(&macro_.path);
        self.tokens(macro_.tokens.clone());
    }

    // `pub(in crate::chaos)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}
