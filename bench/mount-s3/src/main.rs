//! Mounts a bucket with mountpoint-s3, as its program `mount-s3` does with its default settings: the peer that
//! fluid-fuse is measured against.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use mountpoint_s3_client::config::{AddressingStyle, S3ClientAuthConfig};
use mountpoint_s3_client::user_agent::UserAgent;
use mountpoint_s3_fs::data_cache::{CacheLimit, DataCacheConfig, DiskDataCacheConfig};
use mountpoint_s3_fs::fs::{CacheConfig, TimeToLive};
use mountpoint_s3_fs::fuse::config::{FuseOptions, FuseSessionConfig, MountPoint};
use mountpoint_s3_fs::memory::{CandidateSize, PagedPool, effective_total_memory};
use mountpoint_s3_fs::s3::config::{ClientConfig, PartConfig, Region, TargetThroughputSetting};
use mountpoint_s3_fs::s3::{Bucket, Prefix, S3Path};
use mountpoint_s3_fs::{MountpointConfig, Runtime, S3FilesystemConfig, Superblock, SuperblockConfig};

/// The allocator of `mount-s3`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes of a request: the default of `--read-part-size`.
const PART: usize = 8 << 20;
/// Threads that serve FUSE requests: the default of `--max-threads`.
const THREADS: usize = 16;
/// Bytes of a block of the disk cache.
const CACHE_BLOCK: u64 = 1 << 20;
/// The part of the machine's memory that it takes for its own: the default of `--memory-target`.
const MEMORY_PERCENT: u64 = 95;

/// The options that the benchmark uses, with the names that `mount-s3` has.
#[derive(Parser)]
#[command(name = "mount-s3")]
struct Options {
    bucket: String,
    mountpoint: PathBuf,
    #[arg(long)]
    endpoint_url: String,
    #[arg(long)]
    cache: Option<PathBuf>,
    #[arg(long)]
    read_only: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let memory = usize::try_from(effective_total_memory() / 100 * MEMORY_PERCENT)?;
    let pool =
        PagedPool::config().with_candidate_sizes([CandidateSize::new(PART)]).with_memory_limit(memory).build();
    let path = S3Path::new(Bucket::new(options.bucket)?, Prefix::empty());
    let client = ClientConfig {
        region: Region::new_user_specified("us-east-1".into()),
        endpoint_url: Some(options.endpoint_url),
        addressing_style: AddressingStyle::Path,
        dual_stack: false,
        transfer_acceleration: false,
        auth_config: S3ClientAuthConfig::default(),
        requester_pays: false,
        expected_bucket_owner: None,
        throughput_target: TargetThroughputSetting::Default,
        bind: None,
        part_config: PartConfig::with_part_size(PART),
        user_agent: UserAgent::new(None),
        tls_config: None,
    }
    .create_client(pool.clone(), Some(&path))
    .context("no S3 client")?;
    let runtime = Runtime::new(client.event_loop_group());
    let filesystem = S3FilesystemConfig {
        // As `--metadata-ttl indefinite`, which the benchmark gives where there is a cache.
        cache_config: match options.cache {
            Some(_) => CacheConfig::new(TimeToLive::Indefinite),
            None => CacheConfig::default(),
        },
        read_only: options.read_only,
        ..S3FilesystemConfig::default()
    };
    let metadata = SuperblockConfig {
        cache_config: filesystem.cache_config.clone(),
        s3_personality: filesystem.s3_personality,
    };
    let superblock = Superblock::new(client.clone(), path, metadata);
    let disk_cache_config = options.cache.map(|cache_directory| DiskDataCacheConfig {
        cache_directory,
        block_size: CACHE_BLOCK,
        limit: CacheLimit::default(),
    });
    let session = FuseSessionConfig::new(
        MountPoint::new(options.mountpoint)?,
        FuseOptions { read_only: options.read_only, ..FuseOptions::default() },
        THREADS,
    )?;
    let data_cache = DataCacheConfig { disk_cache_config, ..DataCacheConfig::default() };
    MountpointConfig::new(session, filesystem, data_cache)?
        .create_fuse_session(superblock, client, runtime, pool)?
        .join()
}
