//! How does an artifact lie in a directory?
//!
//! As the OCI image layout (image-spec 1.0, `image-layout.md`): blobs by their digests, and an index with one entry.
//! Knows nothing of what the blobs are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MARKER: &str = "oci-layout";
/// The media type of an index: of the layout itself, and of an image of several architectures.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A directory that an artifact is written into.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Begins anew in a directory: one that is not there or is empty, or an older layout, which is removed.
    pub fn create(root: &Path) -> Result<Self> {
        if root.join(MARKER).is_file() {
            fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        let fresh = fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        ensure!(fresh, "{} is not empty and no OCI image layout: name another directory", root.display());
        let blobs = root.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
        Ok(Self { root: root.to_owned() })
    }

    /// Adds a blob; gives its descriptor.
    pub fn add(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        let path = self.root.join("blobs").join(digest.replace(':', "/"));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }

    /// Adds a blob of JSON, in its canonical form: keys in order, no spaces.
    pub fn add_json(&self, media_type: &str, value: &Value) -> Result<Value> {
        self.add(media_type, &serde_json::to_vec(value)?)
    }

    /// Ends the layout: the manifest or index that it is about, and the tag that tools call it by.
    pub fn finish(self, mut descriptor: Value, tag: &str) -> Result<()> {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [descriptor],
        });
        let files =
            [("index.json", index.to_string()), (MARKER, json!({"imageLayoutVersion": "1.0.0"}).to_string())];
        for (name, text) in files {
            let path = self.root.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// `sha256:` and the digest.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_layout_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("layout");
        let layout = Layout::create(&root).unwrap();
        let blob = layout.add("text/plain", b"old").unwrap();
        layout.finish(blob, "v1").unwrap();
        Layout::create(&root).unwrap();
        assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 0);
        let error = Layout::create(directory.path()).unwrap_err().to_string();
        assert!(error.contains("name another directory"), "{error}");
        assert!(root.is_dir());
    }
}
