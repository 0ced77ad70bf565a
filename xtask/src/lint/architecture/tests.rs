use std::{fs, path::Path};

use super::{
    modules::Workspace,
    resolve::{self, Use},
    rules,
    table::Table,
};

/// A workspace of one library `app` in `app/src`, from its files.
fn read(files: &[(&str, &str)]) -> Workspace {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join("app/src").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut workspace = Workspace::default();
    let root = workspace.read_crate(folder.path(), &folder.path().join("app/src/lib.rs")).unwrap();
    workspace.libraries.insert("app".to_owned(), root);
    workspace
}

fn uses(files: &[(&str, &str)]) -> Vec<(String, String, usize)> {
    let uses = resolve::uses(&read(files)).into_iter();
    uses.map(|Use { from, to, line }| (from, to, line)).collect()
}

fn used(from: &str, to: &str, line: usize) -> (String, String, usize) {
    (from.to_owned(), to.to_owned(), line)
}

/// What the lint says about files, with a table of these rules and exceptions.
fn check(files: &[(&str, &str)], lines: &str, exceptions: &str) -> Vec<String> {
    let text =
        format!("```architecture\n{lines}\n```\n\n```architecture-exceptions\n{exceptions}\n```\n");
    let table = Table::parse(&text, "RULES.md").unwrap();
    let workspace = read(files);
    rules::check(&table, &workspace.files(), &resolve::uses(&workspace))
}

const ROOT: (&str, &str) = ("lib.rs", "mod high; mod low;");

#[test]
fn a_use_line_and_a_path_in_the_code_are_uses() {
    let high = "use crate::low::One;\nfn f() {\n    super::low::two();\n}\n";
    let files = [ROOT, ("high.rs", high), ("low.rs", "pub struct One; pub fn two() {}")];
    assert_eq!(uses(&files), [used("app/high", "app/low", 1)]);
    let files = [ROOT, ("high.rs", "\n\nfn f() -> crate::low::One {}"), ("low.rs", "")];
    assert_eq!(uses(&files), [used("app/high", "app/low", 3)]);
}

#[test]
fn groups_globs_new_names_and_the_crates_own_name_are_followed() {
    for line in [
        "use crate::{low::{self as l, One}};",
        "use crate::low::*;",
        "use super::low as l;",
        "fn f() { app::low::one() }",
        "fn f() { println!(\"{}\", crate::low::one()) }",
        "macro_rules! m { () => { $crate::low::one() } }",
    ] {
        let files = [ROOT, ("high.rs", line), ("low.rs", "pub struct One; pub fn one() {}")];
        assert_eq!(uses(&files), [used("app/high", "app/low", 1)], "{line}");
    }
}

#[test]
fn a_path_through_an_imported_module_leads_to_where_it_ends() {
    let files = [
        ROOT,
        ("high.rs", "use crate::low;\n\nfn f() { low::deep::g() }"),
        ("low/mod.rs", "pub mod deep;"),
        ("low/deep.rs", "pub fn g() {}"),
    ];
    assert_eq!(uses(&files), [used("app/high", "app/low", 1), used("app/high", "app/low/deep", 3)]);
}

#[test]
fn what_a_module_re_exports_is_used_where_it_is_defined() {
    for export in ["pub use self::deep::One;", "pub use deep::*;", "pub use deep::One as Own;"] {
        let files = [
            ROOT,
            ("high.rs", "use crate::low::{One, Own};"),
            ("low/mod.rs", &format!("mod deep; {export}")),
            ("low/deep.rs", "pub struct One;"),
        ];
        let found = uses(&files);
        assert!(found.contains(&used("app/high", "app/low/deep", 1)), "{export}: {found:?}");
    }
}

#[test]
fn tests_and_visibilities_use_nothing() {
    let high = "pub(in crate::low) struct A;\n#[cfg(test)]\nuse crate::low::One;\n\
                #[cfg(test)]\nmod tests { use crate::low::One; }\n\
                #[cfg(all(test, unix))]\nfn f() { crate::low::one() }\n";
    assert_eq!(uses(&[ROOT, ("high.rs", high), ("low.rs", "")]), []);
}

#[test]
fn a_use_that_no_line_allows_is_named_with_its_line_and_the_rule() {
    let files = [ROOT, ("high.rs", ""), ("low.rs", "\nuse crate::high;")];
    let found = check(&files, "app/high -> app/low\napp/low", "");
    assert_eq!(found, ["app/src/low.rs:2: app/low may not use app/high, see RULES.md:3"]);
}

#[test]
fn an_allowed_use_is_none_and_a_folder_stands_for_what_is_in_it() {
    let files = [
        ROOT,
        ("high.rs", "use crate::low::deep;"),
        ("low/mod.rs", "pub mod deep; mod deeper; fn f() { deep::g() }"),
        ("low/deep.rs", "pub fn g() {}"),
        ("low/deeper.rs", "use super::deep::g;"),
    ];
    assert!(check(&files, "app/high -> app/low\napp/low", "").is_empty());
}

#[test]
fn the_folder_around_a_line_is_only_what_has_no_line_of_its_own() {
    let files = [
        ROOT,
        ("high.rs", "use crate::{One, low};"),
        ("low.rs", ""),
        ("lib.rs", "mod high; mod low; pub struct One;"),
    ];
    let found = check(&files, "app\napp/high -> app\napp/low", "");
    assert_eq!(found, ["app/src/high.rs:1: app/high may not use app/low, see RULES.md:3"]);
}

#[test]
fn files_of_one_folder_may_not_form_a_circle() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b;"),
        ("b.rs", "use crate::c;"),
        ("c.rs", "\nuse crate::a;"),
    ];
    let found = check(&files, "app", "");
    let expected = [
        "a circle: app/a -> app/b -> app/c -> app/a",
        "  app/src/a.rs:1: uses app/b",
        "  app/src/b.rs:1: uses app/c",
        "  app/src/c.rs:2: uses app/a",
    ];
    assert_eq!(found, expected);
    assert!(check(&files, "app", "app/c -> app/a").is_empty());
}

#[test]
fn lines_may_not_form_a_circle_even_if_the_code_has_none() {
    let files = [ROOT, ("high.rs", ""), ("low.rs", "")];
    let found = check(&files, "app/high -> app/low\napp/low -> app/high", "");
    assert_eq!(found, ["RULES.md: the lines form a circle: app/high -> app/low -> app/high"]);
}

#[test]
fn an_exception_excuses_a_use_and_is_an_error_without_it() {
    let rules = "app/high -> app/low\napp/low";
    let exception = "app/low -> app/high";
    let wrong = [ROOT, ("high.rs", ""), ("low.rs", "use crate::high;")];
    assert!(check(&wrong, rules, exception).is_empty());
    let right = [ROOT, ("high.rs", "use crate::low;"), ("low.rs", "")];
    assert_eq!(
        check(&right, rules, exception),
        ["RULES.md:7: the exception app/low -> app/high is not needed any more, remove it"]
    );
}

#[test]
fn modules_without_a_line_and_lines_without_a_module_are_errors() {
    let files = [ROOT, ("high.rs", ""), ("low.rs", "")];
    let found = check(&files, "app/high -> app/gone", "");
    let expected = [
        "app/src/low.rs: no line of RULES.md is about app/low",
        "RULES.md:2: there is no module app/gone",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_line_of_another_form_is_an_error() {
    for line in ["app app/low", "-> app"] {
        let text = format!("```architecture\n{line}\n```\n");
        let error = Table::parse(&text, "RULES.md").unwrap_err().to_string();
        assert!(error.starts_with("RULES.md:2: "), "{error}");
    }
    let twice = Table::parse("```architecture\napp\napp\n```\n", "RULES.md").unwrap_err();
    assert_eq!(twice.to_string(), "RULES.md:3: app has two lines");
    assert!(Table::parse("no block", "RULES.md").is_err());
}

#[test]
fn modules_are_found_beside_and_below_a_file_and_by_attribute() {
    let workspace = read(&[
        ("lib.rs", "mod a; #[path = \"elsewhere.rs\"] mod b;"),
        ("a.rs", "mod inner; mod inline { mod deep; }"),
        ("a/inner.rs", ""),
        ("a/inline/deep.rs", ""),
        ("elsewhere.rs", ""),
    ]);
    let files = workspace.files();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["app", "app/a", "app/a/inline/deep", "app/a/inner", "app/elsewhere"]);
    assert_eq!(files["app/a/inner"], Path::new("app/src/a/inner.rs"));
}
