//! The table of the specifications, held to the tests.

use std::{collections::BTreeSet, fs, path::Path};

/// `| <specification> | <file> |` of every test here, from the tests' documentation.
fn rows_of_tests() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes_e2e");
    let mut rows = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if !file.ends_with(".rs") || file == "table.rs" {
            continue;
        }
        let mut documentation: Vec<&str> = Vec::new();
        let source = fs::read_to_string(&path).unwrap();
        for line in source.lines() {
            match line.strip_prefix("/// ") {
                Some(text) => documentation.push(text),
                None if line == "#[test]" => {
                    rows.insert(format!("| {} | `{file}` |", documentation.join(" ")));
                }
                None => documentation.clear(),
            }
        }
    }
    rows
}

#[test]
fn every_test_is_in_the_table_and_every_row_of_the_table_has_its_test() {
    let table = include_str!("README.md").lines().filter(|line| line.ends_with(".rs` |"));
    // Rows of other tests of the project name their folder.
    let table = table.filter(|line| !line.contains("`tests/")).map(ToOwned::to_owned);
    assert_eq!(table.collect::<BTreeSet<_>>(), rows_of_tests());
}
