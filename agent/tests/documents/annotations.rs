//! `annotations.md`, from `agent/src/source/decode/convert/annotations.rs`.

use sockline::source::decode::convert::annotations::{ALL, Key};

use crate::{cell, head, row};

pub fn page() -> String {
    let mut page = head("Labels and annotations", "agent/src/source/decode/convert/annotations.rs");
    page += "Every label and annotation that Sockline reads.\n\n";
    let (own, others): (Vec<&Key>, Vec<&Key>) =
        ALL.into_iter().partition(|key| key.name.starts_with("sockline.dev/"));
    page += "## Sockline's\n\nA value that is not one of these is reported in log and status, and ignored.\n\n";
    page += &table(&own);
    page +=
        "\n## Kubernetes'\n\nSet by Kubernetes' own components, or as its documentation says.\n\n";
    page += &table(&others);
    page
}

fn table(keys: &[&Key]) -> String {
    let mut table = row(&["key", "on", "values", "effect"]) + "|---|---|---|---|\n";
    for key in keys {
        table += &row(&[
            &format!("`{}`", key.name),
            &cell(key.on),
            &cell(key.values),
            &cell(key.effect),
        ]);
    }
    table
}
