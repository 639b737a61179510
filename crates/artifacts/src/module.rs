//! How does the metadata get into the module, and out of it?
//!
//! As a custom section, as `kwctl annotate` does it. Where kwctl takes the module apart and writes it anew, the section
//! is appended here, so that the code stays what was built, byte for byte. kwctl's own version (the annotation
//! `io.kubewarden.kwctl`) is not claimed.

use anyhow::{Context as _, Result, ensure};
use wasm_encoder::{CustomSection, Section as _};
use wasmparser::{Parser, Payload};

use crate::metadata::Metadata;

/// The name that Kubewarden looks for.
const SECTION: &str = "io.kubewarden.metadata";

/// The module with its metadata. Fails for what is no module, or has metadata already.
pub fn annotate(module: &[u8], metadata: &Metadata) -> Result<Vec<u8>> {
    ensure!(section(module)?.is_none(), "has metadata already: give the module as it was built");
    let json = serde_json::to_vec(metadata)?;
    let mut annotated = module.to_vec();
    CustomSection { name: SECTION.into(), data: json.as_slice().into() }.append_to(&mut annotated);
    Ok(annotated)
}

/// The metadata of a module.
pub fn metadata(module: &[u8]) -> Result<Metadata> {
    let section = section(module)?.context("has no metadata: make annotated-policy.wasm")?;
    serde_json::from_slice(section).with_context(|| format!("cannot read the section {SECTION}"))
}

fn section(module: &[u8]) -> Result<Option<&[u8]>> {
    let mut found = None;
    for payload in Parser::new(0).parse_all(module) {
        match payload.context("is no WebAssembly module")? {
            Payload::CustomSection(section) if section.name() == SECTION => found = Some(section.data()),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_stays_and_the_metadata_comes_back() {
        let yaml = "rules: [{apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE]}]\n\
                    mutating: true\nannotations: {io.kubewarden.policy.version: 1.2.3}";
        let given = Metadata::parse(yaml, Some("# Several\nlines")).unwrap();
        let module = b"\0asm\x01\0\0\0";
        let annotated = annotate(module, &given).unwrap();
        assert!(annotated.starts_with(module));
        assert_eq!(metadata(&annotated).unwrap(), given);
        assert!(annotate(&annotated, &given).unwrap_err().to_string().contains("already"));
        assert!(metadata(module).unwrap_err().to_string().contains("no metadata"));
        assert!(annotate(b"#!/bin/sh", &given).unwrap_err().to_string().contains("no WebAssembly"));
    }
}
