//! The table: what each row measures, in which unit, and what is to be reached. The figures to reach are
//! decided here and nowhere else; it does not know how anything is measured.

use std::fmt;

use super::peers::Peer;

/// Who has figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    Peer(Peer),
    /// The same bytes without FUSE.
    Direct,
    /// FUSE without bytes.
    Zeros,
    /// The source's own files.
    Raw,
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contender::Peer(peer) => peer.fmt(formatter),
            Contender::Direct => formatter.write_str("direct"),
            Contender::Zeros => formatter.write_str("zeros"),
            Contender::Raw => formatter.write_str("raw"),
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    SequentialA,
    SequentialB,
    BusyA,
    BusyB,
    OneDescriptor,
    BusyOneDescriptor,
    Reopened,
    Cached,
    RandomCold,
    RandomWarming,
    RandomSmall,
    FilesEight,
    FilesOne,
    ListCold,
    ListAgain,
    Start,
    Idle,
    Peak32,
    Peak64,
    Peak128,
    Processor,
    Binary,
    Find,
    Append,
}

/// What a figure is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Yardstick {
    /// A number.
    Fixed(f64),
    /// The best of these, in a metric.
    Of(&'static [Contender], Metric),
    /// Its own in another metric.
    Own(Metric),
}

/// At least so much of the yardstick, or at most so much where less is better.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    pub(super) factor: f64,
    pub(super) yardstick: Yardstick,
}

/// A line of the table; some rows have several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) row: u8,
    pub(super) work: &'static str,
    pub(super) metric: Metric,
    pub(super) unit: &'static str,
    pub(super) more_is_better: bool,
    /// The first is the limit that the figure is drawn against; without any, it only explains others.
    pub(super) goals: &'static [Goal],
}

const fn of(factor: f64, contenders: &'static [Contender], metric: Metric) -> Goal {
    Goal { factor, yardstick: Yardstick::Of(contenders, metric) }
}

const fn fixed(value: f64) -> Goal {
    Goal { factor: 1.0, yardstick: Yardstick::Fixed(value) }
}

/// A memory cap in MiB, and what may be beside it.
const fn cap(mebibytes: f64) -> Goal {
    fixed(mebibytes * 1.048_576 + 24.0)
}

const fn more(
    row: u8,
    work: &'static str,
    metric: Metric,
    unit: &'static str,
    goals: &'static [Goal],
) -> Line {
    Line { row, work, metric, unit, more_is_better: true, goals }
}

const fn less(
    row: u8,
    work: &'static str,
    metric: Metric,
    unit: &'static str,
    goals: &'static [Goal],
) -> Line {
    Line { more_is_better: false, ..more(row, work, metric, unit, goals) }
}

const DIRECT: &[Contender] = &[Contender::Direct];
const ZEROS: &[Contender] = &[Contender::Zeros];
const RAW: &[Contender] = &[Contender::Raw];
const MOUNT_S3: &[Contender] = &[Contender::Peer(Peer::MountS3)];
const S3FS: &[Contender] = &[Contender::Peer(Peer::S3fs), Contender::Peer(Peer::S3fsTuned)];

/// All lines.
pub(super) const TABLE: &[Line] = {
    use Metric::*;
    &[
        more(
            1,
            "1 GiB sequential, cold, A",
            SequentialA,
            "MB/s",
            &[of(0.65, ZEROS, SequentialA), of(1.4, MOUNT_S3, SequentialA), of(1.9, S3FS, SequentialA)],
        ),
        less(1, "the machine's processors, busy meanwhile", BusyA, "%", &[]),
        more(2, "1 GiB sequential, cold, B", SequentialB, "MB/s", &[of(0.9, DIRECT, SequentialB)]),
        less(2, "the machine's processors, busy meanwhile", BusyB, "%", &[]),
        more(
            3,
            "4 threads on one descriptor, B",
            OneDescriptor,
            "MB/s",
            &[Goal { factor: 0.95, yardstick: Yardstick::Own(SequentialB) }],
        ),
        less(3, "the machine's processors, busy meanwhile", BusyOneDescriptor, "%", &[]),
        more(4, "second open and read", Reopened, "MB/s", &[of(0.6, RAW, Reopened)]),
        more(5, "whole in the disk cache", Cached, "MB/s", &[of(0.95, RAW, Cached)]),
        less(6, "random 128 KiB, cold, B: median", RandomCold, "ms", &[of(1.1, DIRECT, RandomCold)]),
        more(7, "1,000 random 128 KiB, disk cache, B", RandomWarming, "/s", &[fixed(650.0)]),
        more(8, "random 4 KiB, A", RandomSmall, "/s", &[of(0.5, DIRECT, RandomSmall)]),
        more(
            9,
            "1,000 files of 128 KiB, 8 readers, B",
            FilesEight,
            "/s",
            &[of(1.0, DIRECT, FilesEight), of(3.0, MOUNT_S3, FilesEight)],
        ),
        more(10, "1,000 files of 128 KiB, 1 reader, B", FilesOne, "/s", &[fixed(120.0)]),
        less(11, "attributes of 10,000 files, cold, A", ListCold, "ms", &[fixed(100.0)]),
        less(11, "attributes of 10,000 files, again", ListAgain, "ms", &[of(1.2, RAW, ListAgain)]),
        less(12, "exec to first stat, A", Start, "ms", &[fixed(8.0)]),
        less(13, "memory, idle", Idle, "MB", &[fixed(12.0)]),
        less(13, "memory, peak, cap 32 MiB", Peak32, "MB", &[cap(32.0)]),
        less(13, "memory, peak, cap 64 MiB", Peak64, "MB", &[cap(64.0)]),
        less(13, "memory, peak, cap 128 MiB", Peak128, "MB", &[cap(128.0)]),
        less(14, "processor seconds for a GiB, A", Processor, "s", &[fixed(0.9)]),
        less(15, "binary", Binary, "MB", &[fixed(12.0)]),
        less(16, "find over 1,000 directories of 10 files, cold, B", Find, "ms", &[fixed(1000.0)]),
        more(17, "lines appended to a file of 8 MiB, each seen in the store, B", Append, "/s", &[fixed(5.0)]),
    ]
};
