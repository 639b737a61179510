//! What does a registry hold of a policy?
//!
//! The same manifest, byte for byte, as after `kwctl push` of the same module (`push.rs` of kwctl, `registry` of
//! policy-fetcher): its media types, an empty configuration, the metadata's annotations of one line.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use crate::layout::Layout;
use crate::metadata::{Metadata, SOURCE};
use crate::module;

const CONFIG: &str = "application/vnd.wasm.config.v1+json";
const LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// Of the manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Where the source of an artifact is.
pub(crate) const IMAGE_SOURCE: &str = "org.opencontainers.image.source";

/// Writes an annotated module as an artifact; gives the tag, `v` and the policy's version.
pub fn write(module: &[u8], layout: Layout) -> Result<String> {
    let metadata = module::metadata(module)?;
    let tag = format!("v{}", metadata.version()?);
    let layer = layout.add(LAYER, module)?;
    let config = layout.add(CONFIG, b"{}")?;
    let manifest = json!({
        "schemaVersion": 2,
        "config": config,
        "layers": [layer],
        "annotations": annotations(&metadata),
    });
    let manifest = layout.add_json(MANIFEST, &manifest)?;
    layout.finish(manifest, &tag)?;
    Ok(tag)
}

/// Annotations of an artifact have one line.
fn annotations(metadata: &Metadata) -> BTreeMap<String, String> {
    let one_line = metadata.annotations.iter().filter(|(_, text)| text.lines().count() <= 1);
    let mut annotations: BTreeMap<String, String> =
        one_line.map(|(name, text)| (name.clone(), text.trim().to_owned())).collect();
    if let Some(source) = annotations.get(SOURCE).cloned() {
        annotations.entry(IMAGE_SOURCE.to_owned()).or_insert(source);
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_kwctls() {
        let yaml = "rules: [{apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE]}]\n\
                    mutating: true\nannotations:\n  io.kubewarden.policy.version: 1.2.3\n  \
                    io.kubewarden.policy.description: \"one line \\n\"\n  \
                    io.kubewarden.policy.source: https://example.com/source\n";
        let metadata = Metadata::parse(yaml, Some("# Several\nlines")).unwrap();
        let expected = [
            ("io.kubewarden.policy.description", "one line"),
            ("io.kubewarden.policy.source", "https://example.com/source"),
            ("io.kubewarden.policy.version", "1.2.3"),
            ("org.opencontainers.image.source", "https://example.com/source"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(annotations(&metadata), BTreeMap::from(expected));
    }
}
