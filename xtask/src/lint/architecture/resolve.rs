//! The module that a path leads to. Re-exports are followed to the module that defines the item: a folder's
//! `mod.rs` that re-exports what is in the folder is not what its users use.

use super::modules::{Id, Workspace};

/// A path in one module that leads to another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) line: usize,
}

/// All of them, without those within a file; sorted, the first line for each pair.
pub(super) fn uses(workspace: &Workspace) -> Vec<Use> {
    let mut uses = Vec::new();
    for (id, module) in workspace.modules.iter().enumerate() {
        for mention in &module.contents.mentions {
            let Some(target) = workspace.resolve(id, &mention.path, 0) else { continue };
            let target = &workspace.modules[target].name;
            if *target != module.name {
                let (from, to) = (module.name.clone(), target.clone());
                uses.push(Use { from, to, line: mention.line });
            }
        }
    }
    uses.sort();
    uses.dedup_by(|later, first| (&later.from, &later.to) == (&first.from, &first.to));
    uses
}

/// Re-exports of re-exports; more is a circle of them.
const DEPTH: usize = 16;

impl Workspace {
    /// `None` for what is not of this workspace.
    fn resolve(&self, from: Id, path: &[String], depth: usize) -> Option<Id> {
        let module = &self.modules[from];
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.descend(module.root, rest, depth),
            "self" => self.descend(from, rest, depth),
            "super" => self.descend(module.parent?, rest, depth),
            name => {
                if let Some(child) = module.children.get(name) {
                    return self.descend(*child, rest, depth);
                }
                if let Some(import) =
                    module.contents.imports.get(name).filter(|import| import[0] != name)
                {
                    return self.follow(from, import, rest, depth);
                }
                self.descend(*self.libraries.get(name)?, rest, depth)
            }
        }
    }

    fn descend(&self, module: Id, path: &[String], depth: usize) -> Option<Id> {
        let Some((name, rest)) = path.split_first() else { return Some(module) };
        let inner = &self.modules[module];
        if name == "super" {
            return self.descend(inner.parent?, rest, depth);
        }
        if let Some(child) = inner.children.get(name) {
            return self.descend(*child, rest, depth);
        }
        if inner.contents.items.contains(name) {
            return Some(module);
        }
        if let Some(import) = inner.contents.imports.get(name) {
            return self.follow(module, import, rest, depth);
        }
        for glob in &inner.contents.globs {
            let Some(place) = self.follow(module, glob, &[], depth) else { continue };
            let has = &self.modules[place];
            if place != module
                && (has.contents.items.contains(name)
                    || has.children.contains_key(name)
                    || has.contents.imports.contains_key(name))
            {
                return self.descend(place, path, depth);
            }
        }
        Some(module)
    }

    fn follow(&self, from: Id, import: &[String], rest: &[String], depth: usize) -> Option<Id> {
        if depth == DEPTH {
            return None;
        }
        self.resolve(from, &[import, rest].concat(), depth + 1)
    }
}
