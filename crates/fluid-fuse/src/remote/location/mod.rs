//! The store, the bucket and the settings that a URL and its options name.
//!
//! Decides the endpoint and the region in each store's way, and refuses a Dataset that would send a token of the Pod to a
//! server that the Dataset names. It does not know whether the values are right. Credentials that no option has (a role of
//! the machine, a token of the Pod, a profile in the home directory) are found by the library that signs.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use fluid_sidecar_layout::Named as _;
use fluid_sidecar_layout::source::{self, Scheme, Source};
use percent_encoding::percent_decode_str;

use super::option_values::{Files, Values};
use super::options::Meaning::*;
use super::options::facts;
use super::timeouts::{CONNECT, FIRST_BYTE, STALL, Timeouts};
use super::tls::Verification;
use crate::trust::Trust;

/// Ends of the names of endpoints that expect the bucket in the host name.
const VIRTUAL_HOSTED: &[&str] = &[".aliyuncs.com", ".amazonaws.com", ".myqcloud.com", ".volces.com"];

/// Ends of the names of servers that may get a token of the Pod that no option has, by store.
const OWN_SERVERS: &[(Scheme, &[&str])] = &[
    (Scheme::Gcs, &[".googleapis.com"]),
    (
        Scheme::Azblob,
        &[".core.windows.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net", ".core.cloudapi.de"],
    ),
];

/// The store that a URL and its options name. It has credentials, so it has no `Debug`.
pub(super) struct StoreLocation {
    pub(super) scheme: Scheme,
    /// The URL without secrets, for messages.
    pub(super) url: String,
    /// opendal's settings.
    pub(super) settings: BTreeMap<String, String>,
    pub(super) region: Option<String>,
    pub(super) manifest: Option<String>,
    pub(super) timeouts: Timeouts,
    pub(super) verification: Verification,
    /// Whether reads may take the fast path.
    pub(super) is_fast: bool,
    /// The files from which values were read.
    pub(super) files: Files,
}

impl StoreLocation {
    /// Reads the options. The environment is a function, so that tests need not change theirs.
    pub(super) fn resolve(
        url: &str,
        options: &BTreeMap<String, String>,
        trust: Trust,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let Source::Store { scheme, name, authority, path } = source::parse(url)? else {
            bail!("{url:?} is a directory of the machine, not a store");
        };
        let root = percent_decode_str(path.trim_matches('/')).decode_utf8();
        let root = root.with_context(|| format!("{url:?} has a path that is not UTF-8"))?;
        let root = root.trim_matches('/');
        ensure!(
            !root.split('/').any(|part| part.is_empty() && !root.is_empty()),
            "{url:?} has a path with an empty part, which cannot be reached"
        );

        let mut values = Values::read(scheme, options, trust)?;
        for (variable, meaning) in facts(scheme).environment {
            if !values.has(*meaning)
                && let Some(value) = environment(variable).filter(|value| !value.is_empty())
            {
                values.found.push((*meaning, value));
            }
        }
        let timeouts = Timeouts {
            connect: values.duration(ConnectTimeout, CONNECT)?,
            first_byte: values.duration(FirstByteTimeout, FIRST_BYTE)?,
            stall: values.duration(StallTimeout, STALL)?,
        };
        let mut settings = BTreeMap::new();
        for (meaning, value) in &values.found {
            if let Some(setting) = meaning.setting(scheme) {
                let value = match meaning {
                    Anonymous | RequesterPays => values.switch(*meaning)?.unwrap_or_default().to_string(),
                    _ => value.clone(),
                };
                settings.insert(setting.to_string(), value);
            }
        }
        let client = values.get(Client).map(str::to_string);
        let region = values.get(Region).map(str::to_string);
        let mut location = Self {
            scheme,
            url: format!("{name}://{authority}/{}", path.trim_matches('/')),
            settings,
            region,
            manifest: values.get(Manifest).map(str::to_string),
            timeouts,
            verification: match values.switch(SkipTlsVerify)? {
                Some(true) => Verification::None,
                _ => Verification::Full,
            },
            is_fast: client.as_deref() != Some("library"),
            files: Files::look(std::mem::take(&mut values.files)),
        };
        location.set("root", format!("/{root}"));
        location.locate(name, authority, &values)?;
        if trust == Trust::Dataset {
            location.keep_identity(&values)?;
        }
        Ok(location)
    }

    /// Refuses options of a Dataset that would send a token of this Pod to a server that the Dataset names. Signed
    /// requests are allowed: a server cannot sign other requests with them.
    fn keep_identity(&self, values: &Values) -> anyhow::Result<()> {
        let host = |server: &str| {
            let authority = server.split_once("://").map_or(server, |(_, rest)| rest).split('/').next();
            let host =
                authority.unwrap_or_default().rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
            host.rsplit_once(':').map_or(host.clone(), |(host, _)| host.to_string())
        };
        if let Some(server) = values.get(StsEndpoint) {
            ensure!(
                host(server).ends_with(".aliyuncs.com"),
                "a Dataset names the server {server:?} as {:?}, which would get the Pod's own token",
                StsEndpoint.name()
            );
        }
        let own = [ServiceAccount, ServiceAccountFile, Token, AccountKey, SasToken];
        let is_known = own.iter().any(|meaning| values.of_options(*meaning))
            || self.settings.get("skip_signature").is_some_and(|anonymous| anonymous == "true");
        let servers = OWN_SERVERS.iter().find(|(scheme, _)| *scheme == self.scheme);
        ensure!(
            self.verification == Verification::Full || servers.is_none() || is_known,
            "a Dataset does not let {:?} be checked, so that anybody could get the Pod's own token: give credentials as \
             options, or anonymous=true",
            self.url
        );
        if let (Some((_, servers)), Some(endpoint), false) =
            (servers, self.settings.get("endpoint"), is_known)
        {
            ensure!(
                servers.iter().any(|end| host(endpoint).ends_with(end)),
                "a Dataset names the server {endpoint:?}, which would get the Pod's own token: give credentials as \
                 options, or anonymous=true"
            );
        }
        Ok(())
    }

    /// Moves to the region of the bucket: requests are signed for it, and an endpoint of Amazon that names a region
    /// names this one.
    pub(super) fn move_to(&mut self, region: &str) {
        let before = self.settings.insert("region".to_string(), region.to_string()).unwrap_or_default();
        if let Some(endpoint) = self.settings.get_mut("endpoint")
            && [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|end| endpoint.ends_with(end))
        {
            *endpoint = endpoint.replace(&format!("{before}."), &format!("{region}."));
        }
        self.region = Some(region.to_string());
    }

    /// The URL of the bucket without a key.
    pub(super) fn bucket_url(&self) -> Option<http::Uri> {
        let setting = |name: &str| self.settings.get(name).map(String::as_str);
        let bucket = setting("bucket").unwrap_or_default();
        let url = match (setting("endpoint"), setting("enable_virtual_host_style")) {
            // This endpoint knows the buckets of all regions.
            (None, _) if self.scheme != Scheme::S3 => return None,
            (None, _) => format!("https://s3.amazonaws.com/{bucket}"),
            (Some(endpoint), Some("true")) => {
                let (scheme, host) = endpoint.split_once("://")?;
                format!("{scheme}://{bucket}.{host}/")
            }
            (Some(endpoint), _) => format!("{endpoint}/{bucket}"),
        };
        url.parse().ok()
    }

    fn set(&mut self, setting: &str, value: impl Into<String>) {
        self.settings.insert(setting.to_string(), value.into());
    }

    /// Sets the bucket and the endpoint, in each store's way.
    fn locate(&mut self, name: &str, authority: &str, values: &Values) -> anyhow::Result<()> {
        let default_scheme = if values.switch(Https)?.unwrap_or(true) { "https" } else { "http" };
        let path_style = values.switch(PathStyle)?;
        let mut bucket = authority;
        let mut endpoint = self.settings.remove("endpoint");
        match self.scheme {
            Scheme::Webhdfs => {
                endpoint =
                    Some(format!("{}://{authority}", if name == "swebhdfs" { "https" } else { "http" }))
            }
            Scheme::Http => endpoint = Some(format!("{name}://{authority}")),
            Scheme::Oss => {
                // JindoFS writes oss://bucket.oss-cn-hangzhou.aliyuncs.com/path.
                if let Some((first, host)) =
                    authority.split_once('.').filter(|(_, host)| host.starts_with("oss-"))
                {
                    bucket = first;
                    endpoint.get_or_insert_with(|| host.to_string());
                }
                if let (None, Some(region)) = (&endpoint, &self.region) {
                    endpoint = Some(format!("oss-{}.aliyuncs.com", region.trim_start_matches("oss-")));
                }
            }
            Scheme::Azblob => {
                if let (None, Some(account)) = (&endpoint, self.settings.get("account_name")) {
                    endpoint = Some(format!("{account}.blob.core.windows.net"));
                }
            }
            Scheme::Cos => {
                if let (None, Some(region)) = (&endpoint, &self.region) {
                    endpoint = Some(format!("cos.{region}.myqcloud.com"));
                }
            }
            Scheme::S3 | Scheme::Gcs | Scheme::Obs | Scheme::Tos => {}
        }
        let endpoint = endpoint.map(|endpoint| match endpoint.contains("://") {
            true => endpoint,
            false => format!("{default_scheme}://{endpoint}"),
        });
        if endpoint.is_none() && !matches!(self.scheme, Scheme::S3 | Scheme::Gcs) {
            bail!("{}: the option \"endpoint\" is missing", self.url);
        }
        let host = endpoint.as_deref().unwrap_or(".amazonaws.com").trim_end_matches('/');
        let virtual_hosted = path_style
            .map_or(VIRTUAL_HOSTED.iter().any(|end| host.ends_with(end)) && !bucket.contains('.'), |path| {
                !path
            });
        match self.scheme {
            Scheme::S3 => {
                let known = self.region.clone().or_else(|| {
                    let first = host.split_once("://")?.1.strip_prefix("s3.")?;
                    first.strip_suffix(".amazonaws.com").map(str::to_string)
                });
                let checksum =
                    self.settings.remove("checksum_algorithm").unwrap_or_else(|| "crc32c".to_string());
                if checksum != "none" {
                    self.set("checksum_algorithm", checksum);
                }
                self.set("enable_virtual_host_style", virtual_hosted.to_string());
                self.set("region", known.unwrap_or_else(|| "us-east-1".to_string()));
            }
            Scheme::Oss => {
                // The names of OSS's endpoints contain the region, but those of "accelerate" and of users do not.
                let named = |host: &str| {
                    let first = host.split_once("://")?.1.strip_suffix(".aliyuncs.com")?;
                    let region = first.strip_prefix("oss-")?;
                    let region = region.strip_suffix("-internal").unwrap_or(region);
                    (!region.starts_with("accelerate")).then(|| region.to_string())
                };
                self.region = match self.region.take() {
                    Some(region) => Some(region.trim_start_matches("oss-").to_string()),
                    None => named(host),
                };
                self.set("addressing_style", if virtual_hosted { "virtual" } else { "path" });
            }
            _ => {}
        }
        match self.scheme {
            Scheme::Azblob => self.set("container", bucket),
            Scheme::Webhdfs | Scheme::Http => {}
            _ => self.set("bucket", bucket),
        }
        if let Some(endpoint) = endpoint {
            self.set("endpoint", endpoint.trim_end_matches('/'));
        }
        Ok(())
    }
}
