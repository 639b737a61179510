//! The run: who does which work when. All contenders do a piece of work one after the other, in another order
//! each round, so that what the machine does meanwhile meets all of them; a figure is the median of the rounds.
//!
//! "Cold" is a mount that nobody has read from. Whoever fails at a piece of work, or does not end it in time,
//! has no figure there, and the report says why. It does not know which figures are good (`table`).

mod data;
mod mounted;
mod peers;
mod report;
mod svg;
mod table;
mod work;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use fluid_sidecar_layout::{Named as _, clap_parser};

use crate::direct::{self, Connection};
use crate::size::MIB;
use data::{BUCKET, Data, MANY, PARALLEL, SMALL, TREE};
use mounted::{Mounted, Place};
use peers::{Access, Mounting, Peer};
use report::{Report, Results};
use table::{Contender, Line, Metric, TABLE, Yardstick};
use work::{Jumps, Processors};

/// The name of the large file.
pub const BIG: &str = "big.bin";
/// Its size.
pub const BIG_SIZE: u64 = 1 << 30;

/// How long a piece of work may take before it has failed.
const LIMIT: Duration = Duration::from_secs(60);
/// How long reads go on before the rate is that of the part done.
const CUT: Duration = Duration::from_secs(15);
/// The same for work whose rate is soon known.
const SHORT_CUT: Duration = Duration::from_secs(5);
/// How long a cache may take to be whole.
const SETTLE: Duration = Duration::from_secs(20);
/// The file that is appended to, its size in bytes, and how many lines.
const LOG: &str = "log.txt";
const LOG_SIZE: usize = 8 << 20;
const LINES: u64 = 50;
/// How far away the store B is.
const FAR: &[&str] = &["--first-byte", "15ms", "--rate", "90MB"];
/// The cap of fluid-fuse where nothing else is said, in MiB.
const MEMORY: u64 = 128;

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Rows of the table; all by default
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=17))]
    rows: Vec<u8>,
    /// How often; the figures are medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Who; by default all but fluid-fuse-held
    #[arg(long, value_delimiter = ',', value_parser = clap_parser::<Peer>())]
    peers: Vec<Peer>,
    /// Where the data set is made and kept (2.2 GiB), and where mounts and caches go
    #[arg(long, default_value = "target/fuse-bench")]
    data: PathBuf,
    /// The program to measure
    #[arg(long, env = "FLUID_FUSE", default_value = "target/release/fluid-fuse")]
    fluid_fuse: PathBuf,
    /// Draw the table here
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write the table here as well
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// One round of the rows that say most
    #[arg(long)]
    quick: bool,
}

const QUICK: &[u8] = &[1, 2, 6, 8, 9, 11];

/// Measures, and prints the table.
pub fn run(options: Options) -> anyhow::Result<()> {
    if let Some(reason) = cannot_mount() {
        writeln!(io::stdout(), "skipped: {reason}, so fluid-fuse was not measured")?;
        return Ok(());
    }
    let rounds = if options.quick { 1 } else { options.rounds };
    let wanted = |line: &&Line| match options.rows.as_slice() {
        [] => !options.quick || QUICK.contains(&line.row),
        rows => rows.contains(&line.row),
    };
    let lines: Vec<&Line> = TABLE.iter().filter(wanted).collect();
    let others: Vec<Peer> = Peer::ALL.iter().copied().filter(|peer| *peer != Peer::Held).collect();
    let peers = if options.peers.is_empty() { &others } else { &options.peers };

    fs::create_dir_all(&options.data).with_context(|| format!("cannot make {}", options.data.display()))?;
    let lock = File::create(options.data.join("lock"))?;
    lock.try_lock().with_context(|| format!("{} is in use by another run", options.data.display()))?;
    let mut bench = Bench::prepare(&options)?;
    let mut results = Results::default();
    let mut contenders = bench.preflight(peers, &options.fluid_fuse, &mut results);
    for round in 0..rounds {
        bench.round = round;
        for task in TASKS.iter().filter(|task| task.is_wanted(&lines)) {
            for contender in &contenders {
                if results.failed(*contender, task.name) || (round > 0 && task.once) {
                    continue;
                }
                match (task.work)(&bench, *contender) {
                    Ok(figures) => {
                        for (metric, value) in figures {
                            eprintln!(
                                "round {}: {}, {contender}: {metric:?} {value:.2}",
                                round + 1,
                                task.name
                            );
                            results.add(*contender, metric, value);
                        }
                    }
                    Err(error) => {
                        eprintln!("round {}: {}, {contender}: {error:#}", round + 1, task.name);
                        results.fail(*contender, task, &error);
                    }
                }
            }
        }
        contenders.rotate_left(1);
    }
    for ((peer, metric), peak) in bench.peaks.borrow().iter() {
        results.add(Contender::Peer(*peer), *metric, *peak);
    }

    let report = Report::new(&lines, &results, rounds);
    let picture = options.svg.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
    let markdown = report.markdown(picture.as_deref());
    write!(io::stdout(), "{markdown}")?;
    if let Some(path) = &options.markdown {
        fs::write(path, markdown).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, svg::draw(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn cannot_mount() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can mount".into());
    }
    let device = File::options().read(true).write(true).open("/dev/fuse");
    device.err().map(|error| format!("/dev/fuse cannot be opened: {error}"))
}

/// An endpoint in a process of its own.
struct Served {
    process: Child,
    address: SocketAddr,
}

impl Served {
    fn start(root: &Path, slowly: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--with-parent", "--root"])
            .arg(root)
            .args(slowly)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line.trim().parse().context("the endpoint does not say where it is")?;
        Ok(Served { process, address })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Nothing is to be done about one that has ended.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

struct Bench {
    data: Data,
    place: Place,
    /// As fast as the machine.
    a: Served,
    /// As far away as an object store.
    b: Served,
    programs: BTreeMap<Peer, PathBuf>,
    /// How far the kernel reads ahead in fluid-fuse, in KiB, as it wrote it.
    read_ahead: Option<String>,
    round: u64,
    /// The most memory that was seen.
    peaks: RefCell<BTreeMap<(Peer, Metric), f64>>,
}

type Figures = anyhow::Result<Vec<(Metric, f64)>>;

/// A piece of work.
struct Task {
    name: &'static str,
    metrics: &'static [Metric],
    /// In the first round only.
    once: bool,
    work: fn(&Bench, Contender) -> Figures,
}

impl Task {
    const fn new(
        name: &'static str,
        metrics: &'static [Metric],
        work: fn(&Bench, Contender) -> Figures,
    ) -> Self {
        Task { name, metrics, once: false, work }
    }

    /// Whether one of the lines shows a figure of it, or has to be compared with one.
    fn is_wanted(&self, lines: &[&Line]) -> bool {
        let is_own = |metric: &Metric| self.metrics.contains(metric);
        lines.iter().any(|line| {
            is_own(&line.metric)
                || line.goals.iter().any(|goal| match &goal.yardstick {
                    Yardstick::Fixed(_) => false,
                    Yardstick::Of(_, metric) | Yardstick::Own(metric) => is_own(metric),
                })
        })
    }
}

const TASKS: &[Task] = {
    use Metric::*;
    &[
        Task::new("sequential, A", &[SequentialA, BusyA, Reopened, Processor], Bench::sequential_a),
        Task::new("sequential, B", &[SequentialB, BusyB], Bench::sequential_b),
        Task::new("one descriptor, B", &[OneDescriptor, BusyOneDescriptor], Bench::one_descriptor),
        Task::new("disk cache", &[Cached], Bench::cached),
        Task::new("random, B", &[RandomCold], Bench::random_cold),
        Task::new("random with a cache, B", &[RandomWarming], Bench::random_warming),
        Task::new("random 4 KiB, A", &[RandomSmall], Bench::random_small),
        Task::new("files, 8 readers, B", &[FilesEight], Bench::files_eight),
        Task::new("files, 1 reader, B", &[FilesOne], Bench::files_one),
        Task::new("listing, A", &[ListCold, ListAgain], Bench::list),
        Task::new("find, B", &[Find], Bench::find),
        Task::new("append, B", &[Append], Bench::append),
        Task::new("start, A", &[Start], Bench::start),
        Task { once: true, ..Task::new("memory", &[Idle, Peak32, Peak64, Peak128], Bench::memory) },
        Task { once: true, ..Task::new("binary", &[Binary], Bench::binary) },
    ]
};

impl Bench {
    fn prepare(options: &Options) -> anyhow::Result<Self> {
        eprintln!("preparing {}", options.data.display());
        let place = Place::prepare(&options.data)?;
        let data = Data::prepare(&options.data)?;
        let a = Served::start(&data.root, &[])?;
        let b = Served::start(&data.root, FAR)?;
        Ok(Bench {
            data,
            place,
            a,
            b,
            programs: BTreeMap::new(),
            read_ahead: None,
            round: 0,
            peaks: RefCell::default(),
        })
    }

    /// Mounts each peer once. Those that do not come are out, with the reason.
    fn preflight(&mut self, peers: &[Peer], fluid_fuse: &Path, results: &mut Results) -> Vec<Contender> {
        let mut contenders = vec![Contender::Raw, Contender::Direct, Contender::Zeros];
        for &peer in peers {
            let tried = peer.program(fluid_fuse).and_then(|program| {
                self.programs.insert(peer, program);
                self.mount(peer, &self.a, MEMORY, &self.place.fresh_cache()?, false)?.read_ahead_file()
            });
            match tried {
                Ok(file) => {
                    if peer == Peer::FluidFuse {
                        self.read_ahead = fs::read_to_string(file).ok();
                    }
                    contenders.push(Contender::Peer(peer));
                }
                Err(error) => results.absent(peer, &error),
            }
        }
        contenders
    }

    fn mount(
        &self,
        peer: Peer,
        endpoint: &Served,
        memory: u64,
        cache: &Path,
        cached: bool,
    ) -> anyhow::Result<Mounted> {
        let mountpoint = &self.place.mountpoint;
        let access = Access::Read;
        let mounting = Mounting { endpoint: endpoint.address, mountpoint, cache, cached, memory, access };
        let program = self.programs.get(&peer).context("not there")?;
        Mounted::start(&self.place, &mut peer.command(program, &mounting), BIG)
    }

    /// Works with a mount that ends afterwards.
    fn with<T>(
        &self,
        mounted: &Mounted,
        peer: Peer,
        memory: u64,
        work: impl FnOnce(&Mounted) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let result = mounted.within(LIMIT, work);
        let metric = match memory {
            32 => Metric::Peak32,
            64 => Metric::Peak64,
            _ => Metric::Peak128,
        };
        if let Ok(peak) = mounted.memory("VmHWM") {
            let mut peaks = self.peaks.borrow_mut();
            let most = peaks.entry((peer, metric)).or_default();
            *most = most.max(peak);
        }
        result
    }

    /// Works with a fresh mount.
    fn cold<T>(
        &self,
        peer: Peer,
        endpoint: &Served,
        work: impl FnOnce(&Mounted) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mounted = self.mount(peer, endpoint, MEMORY, &self.place.fresh_cache()?, false)?;
        self.with(&mounted, peer, MEMORY, work)
    }

    fn big(&self) -> PathBuf {
        self.data.bucket.join(BIG)
    }

    /// Reads the large file, or a part if that takes too long.
    fn read_big(&self, root: &Path, threads: u64, cut: Duration) -> anyhow::Result<f64> {
        Ok(self.read_whole(root, threads, cut)?.done.rate() / 1e6)
    }

    fn read_whole(&self, root: &Path, threads: u64, cut: Duration) -> anyhow::Result<work::Whole> {
        let read = work::whole(&root.join(BIG), threads, cut)?;
        read.verify(&self.big())?;
        Ok(read)
    }

    /// The rate, and how busy the processors were.
    fn direct_big(&self, endpoint: &Served, connections: usize) -> anyhow::Result<(f64, f64)> {
        let processors = Processors::now()?;
        let start = Instant::now();
        direct::whole(endpoint.address, &format!("/{BUCKET}/{BIG}"), BIG_SIZE, connections)?;
        Ok((BIG_SIZE as f64 / 1e6 / start.elapsed().as_secs_f64(), processors.busy()?))
    }

    fn sequential_a(&self, contender: Contender) -> Figures {
        match contender {
            Contender::Direct => {
                let (rate, busy) = self.direct_big(&self.a, 4)?;
                Ok(vec![(Metric::SequentialA, rate), (Metric::BusyA, busy)])
            }
            Contender::Raw => {
                // As with the mounts, the second time counts.
                self.read_big(&self.data.bucket, 1, CUT)?;
                Ok(vec![(Metric::Reopened, self.read_big(&self.data.bucket, 1, CUT)?)])
            }
            Contender::Zeros => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("zeros").arg(&self.place.mountpoint);
                let mounted = Mounted::start(&self.place, &mut command, BIG)?;
                if let Some(read_ahead) = &self.read_ahead {
                    fs::write(mounted.read_ahead_file()?, read_ahead)?;
                }
                mounted.within(LIMIT, |mounted| Ok(sequential(mounted)?.1))
            }
            Contender::Peer(peer) => self.cold(peer, &self.a, |mounted| {
                let (read, mut figures) = sequential(mounted)?;
                read.verify(&self.big())?;
                drop(read);
                figures.push((Metric::Reopened, self.read_big(mounted.root(), 1, CUT)?));
                Ok(figures)
            }),
        }
    }

    fn sequential_b(&self, contender: Contender) -> Figures {
        let (rate, busy) = match contender {
            Contender::Direct => self.direct_big(&self.b, 16)?,
            Contender::Peer(peer) => self.cold_big(peer, 1, CUT)?,
            _ => return Ok(vec![]),
        };
        Ok(vec![(Metric::SequentialB, rate), (Metric::BusyB, busy)])
    }

    fn one_descriptor(&self, contender: Contender) -> Figures {
        let Contender::Peer(peer) = contender else { return Ok(vec![]) };
        let (rate, busy) = self.cold_big(peer, 4, SHORT_CUT)?;
        Ok(vec![(Metric::OneDescriptor, rate), (Metric::BusyOneDescriptor, busy)])
    }

    /// Reads the large file from B, for the first time: the rate, and how busy the processors were.
    fn cold_big(&self, peer: Peer, threads: u64, cut: Duration) -> anyhow::Result<(f64, f64)> {
        self.cold(peer, &self.b, |mounted| {
            let read = self.read_whole(mounted.root(), threads, cut)?;
            Ok((read.done.rate() / 1e6, read.busy))
        })
    }

    fn cached(&self, contender: Contender) -> Figures {
        let cache = self.place.fresh_cache()?;
        let peer = match contender {
            Contender::Raw => {
                // A file that was written as the caches write theirs: just now.
                fs::copy(self.data.bucket.join(BIG), cache.join(BIG))?;
                File::open(cache.join(BIG))?.sync_data()?;
                return Ok(vec![(Metric::Cached, self.read_big(&cache, 1, CUT)?)]);
            }
            Contender::Peer(peer) if peer.keeps_files() => peer,
            _ => return Ok(vec![]),
        };
        let mounted = self.mount(peer, &self.a, MEMORY, &cache, true)?;
        self.with(&mounted, peer, MEMORY, |mounted| {
            self.read_big(mounted.root(), 1, LIMIT)?;
            settle(&cache)
        })?;
        drop(mounted);
        let mounted = self.mount(peer, &self.a, MEMORY, &cache, true)?;
        let rate = self.with(&mounted, peer, MEMORY, |mounted| self.read_big(mounted.root(), 1, CUT))?;
        Ok(vec![(Metric::Cached, rate)])
    }

    fn jumps(&self, size: u64, count: u64) -> Jumps {
        Jumps { seed: self.round, size, count }
    }

    /// The same jumps as GETs.
    fn direct_jumps(&self, endpoint: &Served, jumps: &Jumps) -> anyhow::Result<Vec<Duration>> {
        let mut connection = Connection::new(endpoint.address)?;
        let mut sink = vec![0; jumps.size as usize];
        let path = format!("/{BUCKET}/{BIG}");
        let get = |offset: u64| {
            let start = Instant::now();
            connection.get(&path, Some(offset..offset + jumps.size), &mut sink)?;
            Ok(start.elapsed())
        };
        jumps.offsets(BIG_SIZE).map(get).collect()
    }

    fn read_jumps(&self, mounted: &Mounted, jumps: &Jumps, cut: Duration) -> anyhow::Result<Vec<Duration>> {
        work::random(&mounted.root().join(BIG), &self.big(), jumps, cut)
    }

    fn random_cold(&self, contender: Contender) -> Figures {
        let jumps = self.jumps(128 << 10, 60);
        let times = match contender {
            Contender::Direct => self.direct_jumps(&self.b, &jumps)?,
            Contender::Peer(peer) => {
                self.cold(peer, &self.b, |mounted| self.read_jumps(mounted, &jumps, SHORT_CUT))?
            }
            _ => return Ok(vec![]),
        };
        let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        Ok(vec![(Metric::RandomCold, report::median(&times))])
    }

    fn random_warming(&self, contender: Contender) -> Figures {
        let Contender::Peer(peer) = contender else { return Ok(vec![]) };
        let jumps = self.jumps(128 << 10, 1000);
        let mounted = self.mount(peer, &self.b, MEMORY, &self.place.fresh_cache()?, true)?;
        let times = self.with(&mounted, peer, MEMORY, |mounted| self.read_jumps(mounted, &jumps, CUT))?;
        Ok(vec![(Metric::RandomWarming, per_second(&times))])
    }

    fn random_small(&self, contender: Contender) -> Figures {
        let jumps = self.jumps(4096, 2000);
        let times = match contender {
            Contender::Direct => self.direct_jumps(&self.a, &jumps)?,
            Contender::Peer(peer) => {
                self.cold(peer, &self.a, |mounted| self.read_jumps(mounted, &jumps, SHORT_CUT))?
            }
            _ => return Ok(vec![]),
        };
        Ok(vec![(Metric::RandomSmall, per_second(&times))])
    }

    fn files(&self, contender: Contender, readers: usize, metric: Metric) -> Figures {
        let rate = match contender {
            Contender::Direct => {
                let start = Instant::now();
                direct::share(self.b.address, readers, SMALL.count, |connection, number, sink| {
                    connection.get(&format!("/{BUCKET}/{}", SMALL.file(number)), None, sink).map(drop)
                })?;
                SMALL.count as f64 / start.elapsed().as_secs_f64()
            }
            Contender::Peer(peer) => self.cold(peer, &self.b, |mounted| {
                Ok(work::files(mounted.root(), &self.data.bucket, &SMALL, readers, SHORT_CUT)?.rate())
            })?,
            _ => return Ok(vec![]),
        };
        Ok(vec![(metric, rate)])
    }

    fn files_eight(&self, contender: Contender) -> Figures {
        self.files(contender, 8, Metric::FilesEight)
    }

    fn files_one(&self, contender: Contender) -> Figures {
        match contender {
            // A round trip each, which would only take long to see.
            Contender::Direct => Ok(vec![]),
            contender => self.files(contender, 1, Metric::FilesOne),
        }
    }

    fn list(&self, contender: Contender) -> Figures {
        let twice = |root: &Path| {
            let cold = work::list(root, &MANY)?.as_secs_f64() * 1e3;
            Ok(vec![
                (Metric::ListCold, cold),
                (Metric::ListAgain, work::list(root, &MANY)?.as_secs_f64() * 1e3),
            ])
        };
        match contender {
            Contender::Raw => twice(&self.data.bucket),
            Contender::Peer(peer) => self.cold(peer, &self.a, |mounted| twice(mounted.root())),
            _ => Ok(vec![]),
        }
    }

    fn find(&self, contender: Contender) -> Figures {
        let Contender::Peer(peer) = contender else { return Ok(vec![]) };
        let time = self.cold(peer, &self.b, |mounted| work::find(mounted.root(), &TREE))?;
        Ok(vec![(Metric::Find, time.as_secs_f64() * 1e3)])
    }

    fn append(&self, contender: Contender) -> Figures {
        let Contender::Peer(peer) = contender else { return Ok(vec![]) };
        let bucket = self.place.fresh_store()?.join(BUCKET);
        let (log, start) = (bucket.join(LOG), vec![b'-'; LOG_SIZE]);
        fs::create_dir_all(&bucket)?;
        fs::write(&log, &start)?;
        let root = bucket.parent().context("a bucket has a root")?;
        let store = Served::start(root, &[FAR, &["--writable"]].concat())?;
        let mounting = Mounting {
            endpoint: store.address,
            mountpoint: &self.place.mountpoint,
            cache: &self.place.fresh_cache()?,
            cached: false,
            memory: MEMORY,
            access: Access::Write,
        };
        let program = self.programs.get(&peer).context("not there")?;
        let mounted = Mounted::start(&self.place, &mut peer.command(program, &mounting), LOG)?;
        let (done, lines) =
            mounted.within(LIMIT, |mounted| work::append(&mounted.root().join(LOG), LINES, SHORT_CUT))?;
        // Before the mount ends: a line that was acknowledged by fsync is in the store.
        if fs::read(&log)? != [&start, lines.as_bytes()].concat() {
            bail!("the store lacks lines that fsync has acknowledged");
        }
        Ok(vec![(Metric::Append, done.rate())])
    }

    fn start(&self, contender: Contender) -> Figures {
        let Contender::Peer(peer) = contender else { return Ok(vec![]) };
        let mut times = vec![];
        for _ in 0..3 {
            times.push(self.cold(peer, &self.a, |mounted| Ok(mounted.ready.as_secs_f64() * 1e3))?);
        }
        Ok(vec![(Metric::Start, report::median(&times))])
    }

    /// The work that needs most memory, under each cap. The peaks of all other work count as well.
    fn memory(&self, contender: Contender) -> Figures {
        let Contender::Peer(peer) = contender else { return Ok(vec![]) };
        let idle = self.cold(peer, &self.a, |mounted| {
            thread::sleep(Duration::from_millis(300));
            mounted.memory("VmRSS")
        })?;
        let caps: &[u64] = if peer == Peer::FluidFuse { &[32, 64, 128] } else { &[MEMORY] };
        for &memory in caps {
            for (endpoint, lists) in [(&self.a, true), (&self.b, false)] {
                let mounted = self.mount(peer, endpoint, memory, &self.place.fresh_cache()?, false)?;
                self.with(&mounted, peer, memory, |mounted| {
                    self.read_all_kinds(mounted)?;
                    // Those that ask for each file's attributes would take minutes over B.
                    if lists { work::list(mounted.root(), &MANY).map(drop) } else { Ok(()) }
                })?;
            }
        }
        Ok(vec![(Metric::Idle, idle)])
    }

    fn read_all_kinds(&self, mounted: &Mounted) -> anyhow::Result<()> {
        let cut = Duration::from_secs(2);
        let root = mounted.root();
        let bucket = &self.data.bucket;
        work::parallel((0..PARALLEL.count).map(|number| {
            move || {
                let file = PARALLEL.file(number);
                work::whole(&root.join(&file), 1, cut)?.verify(&bucket.join(file))
            }
        }))?;
        self.read_jumps(mounted, &self.jumps(128 << 10, 100), cut)?;
        self.read_big(root, 4, cut)?;
        work::files(root, bucket, &SMALL, 8, cut)?;
        Ok(())
    }

    fn binary(&self, contender: Contender) -> Figures {
        let Contender::Peer(peer) = contender else { return Ok(vec![]) };
        let program = self.programs.get(&peer).context("not there")?;
        Ok(vec![(Metric::Binary, fs::metadata(program)?.len() as f64 / 1e6)])
    }
}

/// Reads the large file, and says what that cost.
fn sequential(mounted: &Mounted) -> anyhow::Result<(work::Whole, Vec<(Metric, f64)>)> {
    let before = mounted.processor_time()?;
    let read = work::whole(&mounted.root().join(BIG), 1, CUT)?;
    let seconds = mounted.processor_time()? - before;
    let share = read.done.amount as f64 / BIG_SIZE as f64;
    let figures = vec![
        (Metric::SequentialA, read.done.rate() / 1e6),
        (Metric::BusyA, read.busy),
        (Metric::Processor, seconds / share),
    ];
    Ok((read, figures))
}

fn per_second(times: &[Duration]) -> f64 {
    times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64()
}

/// Waits until the cache has the large file and grows no more.
fn settle(cache: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut before = 0;
    while start.elapsed() < SETTLE {
        thread::sleep(Duration::from_millis(500));
        let size = mounted::allocated(cache)?;
        if size >= BIG_SIZE && size == before {
            return Ok(());
        }
        before = size;
    }
    bail!("{} of {} MiB are in the cache", before / MIB, BIG_SIZE / MIB)
}
