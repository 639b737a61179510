//! Fluid's configuration of a ThinRuntime image, `config.json`: which mounts a Dataset has.
//!
//! Its fields are those of [`Config`]. The store interprets the options of a mount.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use fluid_sidecar_layout::config::{Config, writable};
use fluid_sidecar_layout::contract::{SECRETS_DIRECTORY, env};

use crate::remote::options::{is_path, is_secret};
use crate::trust::Trust;

/// One mount of a Dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountSpec {
    /// Where it is seen, below the mount point; `""` for the mount point itself.
    pub path: PathBuf,
    /// The URL of the source.
    pub url: String,
    /// Its options, with those that all mounts share.
    pub options: Options,
    /// Nothing may be written.
    pub read_only: bool,
    /// Whether the administrator or a Dataset chose the source and its options.
    pub trust: Trust,
}

/// Options by name. Values may be secrets, so only the names are printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options(pub BTreeMap<String, String>);

impl std::fmt::Debug for Options {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// Fluid's `config.json`, read.
pub struct FluidConfig(Config);

impl FluidConfig {
    /// Reads the file; `missing` names the option that would make it unnecessary.
    pub fn read(path: &Path, missing: &str) -> anyhow::Result<Self> {
        let bytes = fs::read(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!("--{missing} is not given, and there is no {}", path.display()),
            _ => anyhow!("--{missing} is not given, and {} cannot be read: {error}", path.display()),
        })?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    /// Reads the text, which is from the place.
    pub fn parse(place: &str, json: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(json).map(Self).map_err(|error| {
            // The library's own message may quote a value.
            let kind = match error.classify() {
                serde_json::error::Category::Data => "a field has another type than Fluid gives it",
                _ => "it is not JSON",
            };
            let (line, column) = (error.line(), error.column());
            anyhow!(
                "{place} is not Fluid's configuration of a ThinRuntime: {kind} (line {line}, column {column})"
            )
        })
    }

    /// Where to mount.
    pub fn target_path(&self) -> Option<&str> {
        self.0.target_path.as_deref()
    }

    /// Whether the Dataset may be written to.
    pub fn is_writable(&self) -> bool {
        writable(&self.0.access_modes)
    }

    /// The name of an option that has a secret for a value, if one has.
    pub fn secret(&self) -> Option<&str> {
        let mut options = self.0.mounts.iter().flat_map(|mount| &mount.options);
        let found =
            options.find(|(name, value)| is_secret(name, value) && !value.starts_with(SECRETS_DIRECTORY));
        found.map(|(name, _)| name.as_str())
    }

    /// The mounts. One alone is the mount point itself, unless it has a path; several are at their paths, by
    /// default their names.
    pub fn mounts(
        self,
        place: &str,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Vec<MountSpec>> {
        let alone = self.0.mounts.len() == 1;
        ensure!(!self.0.mounts.is_empty(), "{place} names no mounts");
        let mut mounts = Vec::new();
        for (index, mount) in self.0.mounts.into_iter().enumerate() {
            let field = format!("{place}: mounts[{index}]");
            let path = match mount.path.as_str() {
                "" if alone => String::new(),
                "" if mount.name.is_empty() => bail!("{field} has neither a path nor a name"),
                "" => mount.name,
                path => path.to_string(),
            };
            let mut options = BTreeMap::new();
            for (name, value) in mount.options {
                // Options that are paths themselves stay what they are.
                match value.starts_with(SECRETS_DIRECTORY) && !is_path(&name) {
                    true => options.insert(format!("{name}_file"), value),
                    false => options.insert(name, value),
                };
            }
            for (name, from) in mount.secret_options {
                ensure!(
                    from.starts_with(env::SECRET_PREFIX),
                    "{field}: the option {name} names the variable {from}, which does not begin with {}",
                    env::SECRET_PREFIX
                );
                let value = variable(&from).with_context(|| {
                    format!("{field}: the variable {from} of the option {name} is not set")
                })?;
                let value = value.into_string().map_err(|_| anyhow!("{field}: {from} is not UTF-8"))?;
                options.insert(name, value);
            }
            mounts.push(MountSpec {
                path: below(&path).with_context(|| format!("{field}.path"))?,
                url: mount.mount_point,
                options: Options(options),
                read_only: mount.read_only,
                trust: Trust::Dataset,
            });
        }
        Ok(mounts)
    }
}

/// A path below the mount point, given with or without a slash in front.
pub fn below(path: &str) -> anyhow::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            _ => bail!("{path:?} must not contain \"..\""),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f9_secrets_are_in_variables_for_them() {
        let mounts = |variable: &str| {
            let json = format!(
                r#"{{"mounts":[{{"mountPoint":"s3://a","options":{{"manifest":"/etc/fluid/secrets/s/m"}},
                    "secretOptions":{{"token":"{variable}"}}}}]}}"#
            );
            let config = FluidConfig::parse("x", json.as_bytes()).unwrap();
            config.mounts("x", |name| Some(name.into())).map_err(|error| format!("{error:#}"))
        };
        let found = mounts("FLUID_FUSE_SECRET_0").unwrap();
        assert_eq!(found[0].options.0["token"], "FLUID_FUSE_SECRET_0");
        assert_eq!(found[0].options.0["manifest"], "/etc/fluid/secrets/s/m");
        for variable in ["HOME", "AWS_SECRET_ACCESS_KEY", ""] {
            assert!(mounts(variable).unwrap_err().contains("FLUID_FUSE_SECRET_"), "{variable}");
        }
    }
}
