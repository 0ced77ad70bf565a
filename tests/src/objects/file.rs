//! Manifest files.

use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};

/// The objects as documents of one YAML file. (JSON is YAML.)
pub fn yaml(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object:#}\n")).collect()
}

/// Writes a file in one step, so that no reader sees a part of it. The draft is beside the folder.
///
/// # Errors
/// Those of writing and renaming.
pub fn put(folder: &Path, file: &str, text: &str) -> io::Result<()> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = folder.with_extension(format!("draft-{number}"));
    fs::write(&draft, text)?;
    fs::rename(&draft, folder.join(file))
}

/// Objects as the text of one manifest file. (JSON, which the agent recognises by the file's extension.)
pub fn list<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    let items: Vec<&Value> = objects.into_iter().collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
