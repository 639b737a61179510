//! A bucket of any store that opendal knows: each operation with the session whose credentials are valid.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::SystemTime;

use super::session::{RequestError, Sessions, to_path};
use super::upload::ObjectUpload;
use super::{Bucket, BucketConfig, Depth, Item, Page, Upload, Version};
use crate::store::StoreError;

/// A bucket whose credentials change.
pub(super) struct RemoteBucket(Arc<Sessions>);

impl RemoteBucket {
    pub(super) fn open(
        url: &str,
        options: &BTreeMap<String, String>,
        config: &BucketConfig,
    ) -> anyhow::Result<Self> {
        Ok(Self(Sessions::open(url, options, config)?))
    }
}

impl Bucket for RemoteBucket {
    fn endpoint(&self) -> Option<String> {
        self.0.endpoint()
    }

    fn head(&self, key: &str) -> Result<Version, StoreError> {
        self.0.with_retry(|session| session.head(key))
    }

    fn head_with_time(&self, key: &str) -> Result<(Version, Option<SystemTime>), StoreError> {
        self.0.with_retry(|session| session.head_with_time(key))
    }

    fn list(
        &self,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let mut begun = false;
        self.0.with_retry_if(|session| {
            let mut visit = |items| {
                begun = true;
                page(items)
            };
            session.list(prefix, &mut visit).map_err(|error| match begun {
                true => RequestError::Final(error),
                false => RequestError::Retriable(error),
            })
        })
    }

    fn list_page(&self, prefix: &str, after: Option<&str>, depth: Depth) -> Result<Page, StoreError> {
        self.0.with_retry(|session| session.list_page(prefix, after, depth))
    }

    fn get(&self, version: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
        self.0.with_retry(|session| session.get(version, &range))
    }

    fn put(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(ObjectUpload::new(&self.0, key, None)?))
    }

    fn resume(&self, version: &Version) -> Result<Box<dyn Upload>, StoreError> {
        let base = Some(version.clone());
        Ok(Box::new(ObjectUpload::new(&self.0, &version.key, base)?))
    }

    fn make_directory(&self, key: &str) -> Result<(), StoreError> {
        self.0.with_retry(|session| session.run(key, |path| session.operator.create_dir(path)))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.with_retry(|session| session.run(key, |path| session.operator.delete(path)))
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let to = to_path(to)?;
        self.0.with_retry(|session| session.run(from, |path| session.operator.copy(path, to)).map(|_| ()))
    }
}
