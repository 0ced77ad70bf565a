//! An OCI image layout in a tar archive: one layer with one file.
//!
//! The same binary gives the same archive: all times are the commit's, the order of files is fixed, and their
//! owner is root.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{provenance::Provenance, version};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) struct Image {
    /// By digest, without `sha256:`.
    blobs: BTreeMap<String, Vec<u8>>,
    index: Value,
    layer_size: u64,
    time: u64,
}

impl Image {
    pub(super) fn new(
        binary: &[u8],
        architecture: &str,
        tag: &str,
        from: &Provenance,
    ) -> Result<Self> {
        let mut blobs = BTreeMap::new();
        let mut add = |kind: &str, content: Vec<u8>| {
            let digest = sha256(&content);
            let descriptor = json!({
                "mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len(),
            });
            blobs.insert(digest, content);
            descriptor
        };
        let mut labels = json!({
            "org.opencontainers.image.title": "sockline",
            "org.opencontainers.image.description":
                "In-kernel service load balancing at the socket level for Kubernetes nodes",
            "org.opencontainers.image.version": version(),
            "org.opencontainers.image.created": from.created,
            // Of the agent, and of the kernel programs in it.
            "org.opencontainers.image.licenses": "Apache-2.0 AND (MIT OR GPL-2.0-only)",
        });
        if let Some(revision) = &from.revision {
            labels["org.opencontainers.image.revision"] = json!(revision);
        }
        let tar = tar(from.time, &[("sockline", 0o755, binary)])?;
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&tar)?;
        let layer = add(LAYER, gzip.finish()?);
        let layer_size = layer["size"].as_u64().unwrap_or_default();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": from.created,
            "config": {
                "User": "0:0",
                "Entrypoint": ["/sockline"],
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&tar))]},
            "history": [{"created": from.created, "created_by": "cargo xtask image"}],
        });
        let config = add(CONFIG, serde_json::to_vec(&config)?);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            "annotations": labels,
        });
        let mut manifest = add(MANIFEST, serde_json::to_vec(&manifest)?);
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        // podman and skopeo read the name from the first, containerd from the second.
        manifest["annotations"] = json!({
            "org.opencontainers.image.ref.name": tag,
            "io.containerd.image.name": tag,
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
        Ok(Self { blobs, index, layer_size, time: from.time })
    }

    pub(super) const fn layer_size(&self) -> u64 {
        self.layer_size
    }

    /// Writes the archive in one step, and returns its size.
    pub(super) fn write(&self, output: &Path) -> Result<u64> {
        let layout = serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?;
        let index = serde_json::to_vec(&self.index)?;
        let mut files: Vec<(String, u32, &[u8])> = vec![
            ("oci-layout".to_owned(), 0o644, &layout),
            ("index.json".to_owned(), 0o644, &index),
        ];
        for (digest, content) in &self.blobs {
            files.push((format!("blobs/sha256/{digest}"), 0o644, content));
        }
        let archive = tar(self.time, &files)?;
        let folder = output.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&archive)?;
        let file: File = file.persist(output).context("moving the archive to its place")?;
        // Temporary files are readable by their owner only.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok(archive.len() as u64)
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tar(time: u64, files: &[(impl AsRef<Path>, u32, &[u8])]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_mtime(time);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, *content)?;
    }
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(binary: &[u8]) -> Vec<u8> {
        let from = Provenance {
            time: 1_700_000_000,
            created: "2023-11-14T22:13:20Z".to_owned(),
            revision: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("image.tar");
        let size = Image::new(binary, "amd64", "a/b:1", &from).unwrap().write(&output).unwrap();
        let archive = fs::read(output).unwrap();
        assert_eq!(archive.len() as u64, size);
        archive
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            io::copy(&mut entry, &mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_same_binary_gives_the_same_archive() {
        assert_eq!(image(b"one"), image(b"one"));
        assert_ne!(image(b"one"), image(b"two"));
    }

    #[test]
    fn every_descriptor_leads_to_a_blob_of_its_digest_and_size() {
        let files = files(&image(b"content"));
        let follow = |descriptor: &Value| -> Vec<u8> {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let blob = files[&format!("blobs/sha256/{digest}")].clone();
            assert_eq!(
                (sha256(&blob).as_str(), json!(blob.len())),
                (digest, descriptor["size"].clone())
            );
            blob
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        let manifest = json(&follow(&index["manifests"][0]));
        let config = json(&follow(&manifest["config"]));
        let mut layer = Vec::new();
        let packed = follow(&manifest["layers"][0]);
        io::copy(&mut flate2::read::GzDecoder::new(&packed[..]), &mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&layer)));
        assert_eq!(self::files(&layer), BTreeMap::from([("sockline".into(), b"content".to_vec())]));
    }
}
