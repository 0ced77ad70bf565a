//! Issues of other projects do not happen here: each row of the table in `README.md` has its test.

use std::{fs, path::Path};

/// File and name of each test in the table.
fn rows() -> Vec<(&'static str, &'static str)> {
    let rows = include_str!("README.md").lines().skip_while(|line| !line.starts_with("|---"));
    rows.skip(1)
        .map(|row| {
            let cells: Vec<&str> =
                row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let [_, _, _, file, test, _] = cells[..] else { panic!("no row of the table: {row}") };
            (file, test)
        })
        .collect()
}

#[test]
fn every_row_of_the_table_has_its_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let rows = rows();
    assert!(rows.len() > 20, "only {} rows were read", rows.len());
    for (file, test) in rows {
        let source = fs::read_to_string(folder.join(file));
        let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
        let marked = format!("#[test]\nfn {test}()");
        assert!(source.contains(&marked), "{file} has no test {test}");
    }
}
