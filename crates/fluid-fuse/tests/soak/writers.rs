//! Writers: files and directories that come, change, move and go, each writer in a directory of its own.
//!
//! What was told to be done must be in the store, and be read through the mount, at once. What failed may have
//! been done nevertheless: until the next success a name has several things that it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::Soak;
use crate::support::content::Content;
use crate::tally::Finding;
use crate::weather::{Doing, errno};

/// Names of a writer's files.
const FILES: usize = 12;

/// Between two operations.
const BREATH: Duration = Duration::from_millis(30);

pub(crate) struct Writer {
    soak: Arc<Soak>,
    directory: String,
    dice: fastrand::Rng,
    /// What each name may be.
    files: BTreeMap<String, Vec<Option<Content>>>,
    made: usize,
}

impl Writer {
    pub(crate) fn new(soak: Arc<Soak>, number: usize, dice: fastrand::Rng) -> Self {
        let files = (0..FILES).map(|number| (format!("file {number}"), vec![None])).collect();
        Writer { soak, directory: format!("w/{number}"), dice, files, made: 0 }
    }

    /// Until the end; handed back for the last look.
    pub(crate) fn go_on(mut self) -> Self {
        while !self.soak.is_over() {
            let name = self.any();
            match self.dice.u8(0..10) {
                0..5 => self.write(&name),
                5..7 => {
                    let to = self.any();
                    self.rename(&name, &to);
                }
                7 => self.unlink(&name),
                8 => self.directories(),
                _ => self.list(),
            }
            thread::sleep(BREATH);
        }
        self
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    fn any(&mut self) -> String {
        format!("file {}", self.dice.usize(0..FILES))
    }

    /// What the name is, if that is certain.
    fn certain(&self, name: &str) -> Option<Option<Content>> {
        match self.files.get(name).map(Vec::as_slice) {
            Some([one]) => Some(*one),
            _ => None,
        }
    }

    fn is(&mut self, name: &str, content: Option<Content>) {
        self.files.insert(name.to_string(), vec![content]);
    }

    fn may_be(&mut self, name: &str, content: Option<Content>) {
        let may_be = self.files.entry(name.to_string()).or_default();
        if !may_be.contains(&content) {
            may_be.push(content);
        }
    }

    fn write(&mut self, file: &str) {
        let size = match self.dice.u8(0..20) {
            0..14 => self.dice.u64(0..200_000),
            14..18 => self.dice.u64(1 << 20..3 << 20),
            _ => self.dice.u64(9 << 20..20 << 20),
        };
        let content = self.soak.content(size);
        let key = self.key(file);
        let doing = Doing::path(None);
        let result = match self.dice.bool() {
            true => self.by_fsync(&key, &content),
            false => self.by_close(&key, &content),
        };
        self.soak.tally.wrote();
        match result {
            Ok(()) => self.is(file, Some(content)),
            Err(error) => {
                let may = self.soak.weather.excuse(errno(&error), &doing).is_some();
                // Only the answer may have been lost.
                if !may && errno(&error) == Errno::IO && self.stored(&key, &[Some(content)]).is_ok() {
                    self.soak.tally.expected("EIO (the answer lost, the object there)".to_string());
                } else {
                    self.soak.held::<()>("write", &key, &doing, Err(error));
                }
                self.may_be(file, Some(content));
            }
        }
        self.verify(file);
    }

    fn by_fsync(&mut self, key: &str, content: &Content) -> io::Result<()> {
        let mut file = File::create(self.soak.path(key))?;
        for piece in content.whole().chunks(self.dice.usize(1000..1 << 20)) {
            file.write_all(piece)?;
        }
        file.sync_all()
    }

    /// By a program that says what became of its close(2).
    fn by_close(&mut self, key: &str, content: &Content) -> io::Result<()> {
        let from = self.soak.scratch.join(key.replace('/', " "));
        fs::write(&from, content.whole())?;
        let mut cp = Command::new("cp");
        let output = cp.env("LC_ALL", "C").arg(&from).arg(self.soak.path(key)).output()?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let of = |errno: &i32| {
            let error = io::Error::from_raw_os_error(*errno).to_string();
            error.split(" (os").next().is_some_and(|text| words.trim_end().ends_with(text))
        };
        Err((1..134).find(of).map_or_else(|| io::Error::other(words.clone()), io::Error::from_raw_os_error))
    }

    /// What the store has on its disk; why that is none of what may be.
    fn stored(&self, key: &str, may_be: &[Option<Content>]) -> Result<(), String> {
        let bytes = match fs::read(self.soak.server.data.join(key)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.to_string()),
        };
        fits(bytes.as_deref(), may_be)
    }

    /// Both the store and the mount have what they must.
    fn verify(&mut self, file: &str) {
        let (key, may_be) = (self.key(file), self.files[file].clone());
        if let Err(why) = self.stored(&key, &may_be) {
            self.soak.tally.found(Finding::Lost, "in the store", || format!("{key}: {why}"));
        }
        let doing = Doing::path(None);
        let bytes = match fs::read(self.soak.path(&key)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.soak.weather.excuse(Errno::NOENT, &doing).is_some() {
                    return;
                }
                None
            }
            Err(error) if errno(&error) == Errno::STALE && may_be.len() > 1 => {
                self.soak.tally.expected("ESTALE (after a write that failed)".to_string());
                return;
            }
            Err(error) => {
                self.soak.held::<()>("read what was written", &key, &doing, Err(error));
                return;
            }
        };
        self.soak.tally.read(bytes.as_ref().map_or(0, Vec::len));
        if let Err(why) = fits(bytes.as_deref(), &may_be) {
            self.soak.tally.found(Finding::Wrong, "not what was written", || format!("{key}: {why}"));
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let (Some(Some(content)), Some(_)) = (self.certain(from), self.certain(to)) else { return };
        if from == to {
            return;
        }
        let doing = Doing::path(None);
        let (from_key, to_key) = (self.key(from), self.key(to));
        let renamed = fs::rename(self.soak.path(&from_key), self.soak.path(&to_key));
        self.soak.tally.wrote();
        match self.soak.held("rename", &from_key, &doing, renamed) {
            Some(()) => {
                self.is(from, None);
                self.is(to, Some(content));
            }
            None => {
                self.may_be(from, None);
                self.may_be(to, Some(content));
            }
        }
        self.verify(from);
        self.verify(to);
    }

    fn unlink(&mut self, file: &str) {
        let Some(Some(_)) = self.certain(file) else { return };
        let doing = Doing::path(None);
        let key = self.key(file);
        self.soak.tally.wrote();
        match self.soak.held("unlink", &key, &doing, fs::remove_file(self.soak.path(&key))) {
            Some(()) => self.is(file, None),
            None => self.may_be(file, None),
        }
        self.verify(file);
    }

    /// A directory with a file in it, made and removed again.
    fn directories(&mut self) {
        self.made += 1;
        let directory = self.key(&format!("directory {}", self.made));
        let (path, stored) = (self.soak.path(&directory), self.soak.server.data.join(&directory));
        let file = format!("directory {}/file", self.made);
        let step = |what: &str, result: io::Result<()>, doing: &Doing<'_>| {
            self.soak.tally.wrote();
            self.soak.held(what, &directory, doing, result)
        };
        let doing = Doing::path(None);
        if step("mkdir", fs::create_dir(&path), &doing).is_none() {
            return;
        }
        if !stored.is_dir() {
            self.soak.tally.found(Finding::Lost, "a directory", || directory.clone());
        }
        self.is(&file, None);
        self.write(&file);
        let written = matches!(self.certain(&file), Some(Some(_)));
        if written {
            self.unlink(&file);
        }
        let gone = written && self.certain(&file) == Some(None);
        self.files.remove(&file);
        let doing = Doing::path(None);
        if gone
            && self.soak.held("rmdir", &directory, &doing, fs::remove_dir(&path)).is_some()
            && stored.exists()
        {
            self.soak.tally.found(Finding::Lost, "the end of a directory", || directory.clone());
        }
    }

    fn list(&mut self) {
        let doing = Doing::path(None);
        let read = || -> io::Result<BTreeSet<String>> {
            let entries: io::Result<Vec<_>> = fs::read_dir(self.soak.path(&self.directory))?.collect();
            Ok(entries?.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        };
        let Some(names) = self.soak.held("list", &self.directory, &doing, read()) else { return };
        if self.soak.weather.excuse(Errno::NOTCONN, &doing).is_some() {
            return;
        }
        for (file, may_be) in &self.files {
            let wrong = match may_be.as_slice() {
                [None] => names.contains(file),
                [Some(_)] => !names.contains(file),
                _ => false,
            };
            if wrong {
                self.soak.tally.found(Finding::Wrong, "a listing after a change", || {
                    format!("{}: {file:?} is {may_be:?}, listed: {names:?}", self.directory)
                });
            }
        }
    }

    /// All of it, once more.
    pub(crate) fn verify_all(&mut self) {
        for file in self.files.keys().cloned().collect::<Vec<_>>() {
            self.verify(&file);
        }
    }
}

/// Why bytes, or nothing, are none of what may be.
fn fits(bytes: Option<&[u8]>, may_be: &[Option<Content>]) -> Result<(), String> {
    let fits = may_be.iter().any(|content| match (bytes, content) {
        (None, None) => true,
        (Some(bytes), Some(content)) => {
            bytes.len() as u64 == content.size && content.difference(0, bytes).is_none()
        }
        _ => false,
    });
    match fits {
        true => Ok(()),
        false => Err(format!("{:?} bytes instead of {may_be:?}", bytes.map(<[u8]>::len))),
    }
}
