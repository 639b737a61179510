//! The values of a bucket's options: from the option itself, a file, or a directory of files.
//!
//! An option that a Dataset sets may name no file but those of the Dataset's Secrets ([`trust::secret`]).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use fluid_sidecar_layout::Named as _;
use fluid_sidecar_layout::source::Scheme;

use super::options::Meaning::{self, *};
use super::options::{PATHS, meaning};
use crate::trust::{self, Trust};

/// Largest file with the value of an option, in bytes: Secrets of Kubernetes have at most 1 MiB.
const LARGEST_VALUE: u64 = 1 << 20;

/// The values that were found. The first one of each option counts.
pub(super) struct Values {
    pub(super) found: Vec<(Meaning, String)>,
    pub(super) files: Vec<PathBuf>,
    trust: Trust,
    /// Number of values that are options; those of the environment follow.
    options: usize,
}

impl Values {
    pub(super) fn read(
        scheme: Scheme,
        options: &BTreeMap<String, String>,
        trust: Trust,
    ) -> anyhow::Result<Self> {
        let mut values = Self { found: Vec::new(), files: Vec::new(), trust, options: 0 };
        let mut behind = Vec::new();
        for (name, value) in options {
            let (of, meaning, file) = match meaning(name)? {
                Some(known) => known,
                None => continue,
            };
            if of.is_some_and(|of| of != scheme) || values.has(meaning) {
                continue;
            }
            if meaning == CredentialsDirectory {
                behind.push(PathBuf::from(value));
            } else if file || trust == Trust::Administrator && is_file_of(meaning, value) {
                values.take(meaning, Path::new(value)).with_context(|| format!("the option {name:?}"))?;
            } else {
                values.check_path(meaning, value.trim()).with_context(|| format!("the option {name:?}"))?;
                values.found.push((meaning, value.trim().to_string()));
            }
        }
        for directory in behind {
            if trust == Trust::Dataset {
                trust::secret(&directory)
                    .with_context(|| format!("the directory {directory:?} of credentials"))?;
            }
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("the directory {} of credentials", directory.display()))?;
            for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                let known =
                    path.file_name().and_then(|name| name.to_str()).map(meaning).transpose()?.flatten();
                if let Some((of, meaning, false)) = known
                    && of.is_none_or(|of| of == scheme)
                    && !values.has(meaning)
                    && path.is_file()
                {
                    values.take(meaning, &path)?;
                }
            }
        }
        if let Some(path) = values.get(ServiceAccountFile) {
            let path = PathBuf::from(path);
            values.files.push(path);
        }
        values.options = values.found.len();
        Ok(values)
    }

    fn take(&mut self, meaning: Meaning, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("cannot read {}", path.display());
        let file = match self.trust {
            Trust::Administrator => File::open(path).with_context(failed)?,
            Trust::Dataset => trust::secret(path)?.into(),
        };
        let mut text = String::new();
        let read = file.take(LARGEST_VALUE + 1).read_to_string(&mut text).with_context(failed)?;
        ensure!(read as u64 <= LARGEST_VALUE, "{} is too large", path.display());
        self.check_path(meaning, text.trim())?;
        self.found.push((meaning, text.trim().to_string()));
        self.files.push(path.to_path_buf());
        Ok(())
    }

    /// Refuses a path that a Dataset may not name, also if the path was read from a file.
    fn check_path(&self, meaning: Meaning, value: &str) -> anyhow::Result<()> {
        let is_path = PATHS.contains(&meaning) && !(meaning == Manifest && is_url(value));
        if self.trust == Trust::Dataset && is_path {
            trust::secret(Path::new(value))?;
        }
        Ok(())
    }

    pub(super) fn has(&self, meaning: Meaning) -> bool {
        self.get(meaning).is_some()
    }

    /// Whether an option has a value, not only the environment.
    pub(super) fn of_options(&self, meaning: Meaning) -> bool {
        self.found.iter().take(self.options).any(|(of, _)| *of == meaning)
    }

    pub(super) fn get(&self, meaning: Meaning) -> Option<&str> {
        self.found.iter().find(|(of, _)| *of == meaning).map(|(_, value)| value.as_str())
    }

    pub(super) fn switch(&self, meaning: Meaning) -> anyhow::Result<Option<bool>> {
        let Some(value) = self.get(meaning) else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Ok(Some(true)),
            "false" | "0" | "no" => Ok(Some(false)),
            _ => bail!("the option {:?} must be true or false, not {value:?}", meaning.name()),
        }
    }

    pub(super) fn duration(&self, meaning: Meaning, seconds: u64) -> anyhow::Result<Duration> {
        let Some(value) = self.get(meaning) else { return Ok(Duration::from_secs(seconds)) };
        let time = humantime::parse_duration(value).with_context(|| {
            format!("the option {:?} must be a time such as 5s, not {value:?}", meaning.name())
        })?;
        ensure!(!time.is_zero(), "the option {:?} must be longer than nothing", meaning.name());
        Ok(time)
    }
}

/// Whether a value is the path of a file that holds the value.
fn is_file_of(meaning: Meaning, value: &str) -> bool {
    meaning.secret() && value.starts_with('/') && Path::new(value).is_file()
}

fn is_url(value: &str) -> bool {
    value.starts_with("http://") || value.starts_with("https://")
}

/// Files with the size and time of change that they had at the last check.
#[derive(PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl Files {
    pub(super) fn look(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamp = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        Self(paths.into_iter().map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect())
    }

    /// Whether one of them has changed since then.
    pub(super) fn changed(&self) -> bool {
        !self.0.is_empty() && *self != Self::look(self.0.iter().map(|(path, _)| path.clone()))
    }
}
