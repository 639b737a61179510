//! The Secrets of `--secret`: directories with one file per key, as a mounted Secret of Kubernetes is.
//!
//! Decides what a missing Secret or key means: nothing where it is optional, else an error that names the
//! option which would help. It does not know which field asks.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// The Secrets that the user gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Secrets<'a> {
    rules: &'a [(String, PathBuf)],
}

impl<'a> Secrets<'a> {
    /// Secrets by the rules of `--secret`.
    pub fn new(rules: &'a [(String, PathBuf)]) -> Self {
        Secrets { rules }
    }

    /// The directory of a Secret; none only where it is optional.
    pub fn directory(&self, name: &str, optional: bool) -> Result<Option<&'a Path>> {
        let Some((_, path)) = self.rules.iter().find(|(known, _)| known == name) else {
            ensure!(optional, "podrun has no Secret {name:?}: give --secret {name}=DIR");
            return Ok(None);
        };
        ensure!(path.is_dir(), "--secret {name}={}: not a directory", path.display());
        Ok(Some(path))
    }

    /// The value of a key; none only where it is optional.
    pub fn value(&self, name: &str, key: &str, optional: bool) -> Result<Option<Vec<u8>>> {
        ensure!(is_key(key), "{key:?} is no key of a Secret");
        let Some(directory) = self.directory(name, optional)? else { return Ok(None) };
        let file = directory.join(key);
        match std::fs::read(&file) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot read {}", file.display()))
            }
            Err(_) if optional => Ok(None),
            Err(_) => bail!("the Secret {name:?} has no key {key:?}: make the file {}", file.display()),
        }
    }

    /// The value of a key as a variable of the environment.
    pub fn text(&self, name: &str, key: &str, optional: bool) -> Result<Option<String>> {
        let text = self.value(name, key, optional)?.map(String::from_utf8).transpose();
        text.with_context(|| format!("the Secret {name:?} has no text under {key:?}"))
    }
}

/// Whether a file of this name stays in its directory.
fn is_key(key: &str) -> bool {
    let letters = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    letters && !key.is_empty() && key != "." && !key.starts_with("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "value\n").unwrap();
        std::fs::write(directory.path().join("binary"), [0xff]).unwrap();
        let rules = [("s".to_owned(), directory.path().to_owned()), ("gone".to_owned(), "/no/such".into())];
        let secrets = Secrets::new(&rules);
        assert_eq!(secrets.text("s", "key", false).unwrap(), Some("value\n".into()));
        assert_eq!(secrets.value("s", "other", true).unwrap(), None);
        assert_eq!(secrets.value("t", "key", true).unwrap(), None);
        for (name, key, expected) in [
            ("t", "key", "give --secret t=DIR"),
            ("s", "other", "make the file "),
            ("s", "../key", "is no key"),
            ("s", "", "is no key"),
            ("s", "binary", "has no text under"),
            ("gone", "key", "--secret gone=/no/such: not a directory"),
        ] {
            let error = format!("{:#}", secrets.text(name, key, false).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
