//! The paths that the code of a module names, and the names that it defines.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility,
    visit::{self, Visit},
};

/// A path as it stands in the code.
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// What the code of a module has, without the modules in it.
#[derive(Default)]
pub(super) struct Contents {
    /// What `use` brings into scope, by the name that it has here.
    pub(super) imports: BTreeMap<String, Vec<String>>,
    /// The paths of `use path::*`.
    pub(super) globs: Vec<Vec<String>>,
    /// Names of items that are defined here.
    pub(super) items: BTreeSet<String>,
    pub(super) mentions: Vec<Mention>,
}

impl<'ast> Contents {
    /// What the items of a module have, and its modules. Items for tests do not count.
    pub(super) fn of(items: &'ast [Item]) -> (Self, Vec<&'ast ItemMod>) {
        let mut reader = Reader::default();
        items.iter().for_each(|item| reader.visit_item(item));
        (reader.contents, reader.nested)
    }
}

#[derive(Default)]
struct Reader<'ast> {
    contents: Contents,
    nested: Vec<&'ast ItemMod>,
}

impl Reader<'_> {
    fn mention(&mut self, path: Vec<String>, span: Span) {
        if path.len() > 1 {
            self.contents.mentions.push(Mention { path, line: span.start().line });
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
                self.contents.globs.push(path.clone());
                // A glob of a single segment, such as `super::*`, is a use as well.
                self.contents.mentions.push(Mention { path, line: span.start().line });
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
            self.contents.imports.insert(here, path.clone());
        } else {
            path.push(name.to_owned());
            self.contents.imports.insert(here.to_owned(), path.clone());
        }
        self.contents.mentions.push(Mention { path, line: span.start().line });
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

impl<'ast> Visit<'ast> for Reader<'ast> {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes_of(item)) {
            return;
        }
        self.contents.items.extend(name_in(item));
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
