//! What is read: made once, kept between runs, the same for everybody. It decides contents and sizes, and
//! keeps them in the page cache, so that the stack is measured and not the disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{BIG, BIG_SIZE};
use crate::size::MIB;

/// The bucket.
pub(super) const BUCKET: &str = "bench";
/// Files that are read whole.
pub(super) const SMALL: Group = Group { directory: "small", count: 1000, size: 128 << 10, in_each: None };
/// Files that are listed.
pub(super) const MANY: Group = Group { directory: "dir10k", count: 10_000, size: 64, in_each: None };
/// Files that are read at the same time.
pub(super) const PARALLEL: Group = Group { directory: "par", count: 4, size: 256 * MIB, in_each: None };

/// Files in many directories, which are found.
pub(super) const TREE: Group = Group { directory: "tree", count: 10_000, size: 64, in_each: Some(10) };

/// Files of one size.
pub(super) struct Group {
    pub(super) directory: &'static str,
    pub(super) count: u64,
    pub(super) size: u64,
    /// Files in each directory below, if they are not all in one.
    pub(super) in_each: Option<u64>,
}

impl Group {
    /// The path of one of them below the bucket.
    pub(super) fn file(&self, number: u64) -> String {
        match self.in_each {
            Some(files) => format!("{}/{:05}/{:05}.bin", self.directory, number / files, number % files),
            None => format!("{}/{number:05}.bin", self.directory),
        }
    }
}

/// The directories of the data set.
pub(super) struct Data {
    /// What the endpoints serve.
    pub(super) root: PathBuf,
    /// The files themselves.
    pub(super) bucket: PathBuf,
}

impl Data {
    /// Makes what is not there yet, and reads all of it.
    pub(super) fn prepare(directory: &Path) -> anyhow::Result<Self> {
        let root = directory.join("data");
        let bucket = root.join(BUCKET);
        let groups = [&SMALL, &MANY, &PARALLEL, &TREE];
        fs::create_dir_all(&bucket).with_context(|| format!("cannot make {}", bucket.display()))?;
        let files =
            groups.iter().flat_map(|group| (0..group.count).map(|number| (group.file(number), group.size)));
        let mut random = Random(1);
        for (name, size) in [(BIG.to_owned(), BIG_SIZE)].into_iter().chain(files) {
            let path = bucket.join(name);
            random.next();
            if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == size) {
                io::copy(&mut File::open(&path)?, &mut io::sink())?;
            } else {
                let mut random = Random(random.0);
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
                for _ in 0..size / 8 {
                    file.write_all(&random.next().to_le_bytes())?;
                }
                file.into_inner()?.sync_all()?;
            }
        }
        Ok(Data { root, bucket })
    }
}

/// Numbers without a pattern, the same in each run (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
