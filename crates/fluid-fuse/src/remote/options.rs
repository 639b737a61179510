//! The options of a bucket: what users of Fluid's runtimes write, and what it means for the store.
//!
//! Decides which store a URL names, what each option means for it ([`Meaning`] is the one table of them) and
//! where a value comes from: the option itself, a file, a directory of files, the environment. It does not know
//! whether the values are right, nor what they do; credentials that nobody wrote down (a role of the machine, a
//! token of the Pod, a profile in the home directory) are found by the library that signs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use fluid_sidecar_layout::source::{self, Scheme, Source};
use fluid_sidecar_layout::{Named as _, named};
use percent_encoding::percent_decode_str;

use self::Meaning::*;
use super::tls::Verification;
use crate::trust::{self, Trust};

/// Bytes of a file that has the value of an option. Secrets of Kubernetes have at most 1 MiB.
const LARGEST_VALUE: u64 = 1 << 20;

/// What is known of a kind of store beside its URLs ([`Scheme`]).
#[derive(Debug)]
pub struct Facts {
    /// Options whose names begin so are about this store. It is their only reader, so a name that is not known is a
    /// mistake.
    pub option_prefixes: &'static [&'static str],
    /// Variables that are read where the library that signs does not read them, for what no option says; the first
    /// that is set counts.
    pub environment: &'static [(&'static str, Meaning)],
}

/// What is known of each store.
pub fn facts(scheme: Scheme) -> &'static Facts {
    match scheme {
        Scheme::S3 => &Facts {
            option_prefixes: &["fs.s3a.", "fs.s3.", "aws.", "alluxio.underfs.s3.", "minio_"],
            environment: &[
                ("AWS_REGION", Region),
                ("AWS_DEFAULT_REGION", Region),
                ("AWS_ENDPOINT_URL_S3", Endpoint),
                ("AWS_ENDPOINT_URL", Endpoint),
                ("AWS_PROFILE", Profile),
            ],
        },
        Scheme::Oss => &Facts {
            option_prefixes: &["fs.oss."],
            environment: &[("OSS_ENDPOINT", Endpoint), ("OSS_REGION", Region)],
        },
        Scheme::Gcs => &Facts {
            option_prefixes: &["fs.gs.", "fs.gcs."],
            environment: &[("GOOGLE_APPLICATION_CREDENTIALS", ServiceAccountFile)],
        },
        Scheme::Azblob => &Facts {
            option_prefixes: &["fs.azure."],
            environment: &[
                ("AZURE_STORAGE_ACCOUNT_NAME", Account),
                ("AZURE_STORAGE_ACCOUNT", Account),
                ("AZURE_STORAGE_ACCOUNT_KEY", AccountKey),
                ("AZURE_STORAGE_KEY", AccountKey),
                ("AZURE_STORAGE_SAS_TOKEN", SasToken),
            ],
        },
        Scheme::Cos => &Facts { option_prefixes: &["fs.cosn.", "fs.cos."], environment: &[] },
        Scheme::Obs => &Facts { option_prefixes: &["fs.obs."], environment: &[] },
        Scheme::Tos => &Facts { option_prefixes: &["fs.tos."], environment: &[] },
        Scheme::Webhdfs => &Facts { option_prefixes: &[], environment: &[("HADOOP_USER_NAME", User)] },
        Scheme::Http => &Facts { option_prefixes: &[], environment: &[] },
    }
}

/// Further names of an option. Case does not count, nor whether words are joined by `-` or `_`.
#[derive(Debug)]
pub struct Spellings(pub &'static [&'static str]);

named! {
    /// What an option is about: every option, with its text for the documentation. A name with a store's prefix is read
    /// for that store alone; each also exists as `<name>_file`, the path of a file that has the value.
    #[allow(rustdoc::broken_intra_doc_links, reason = "what is in brackets is a default")]
    pub enum Meaning: Spellings {
        /// Where the store is, with or without https://.
        Endpoint = "endpoint" => Spellings(&[
            "endpoint_url", "url", "aws_endpoint_url", "fs.s3a.endpoint", "fs.s3.endpoint",
            "alluxio.underfs.s3.endpoint", "minio-url", "fs.oss.endpoint", "fs.azure.endpoint",
            "fs.cos.endpoint", "fs.obs.endpoint", "fs.tos.endpoint", "fs.gs.endpoint",
        ]),
        /// false: HTTP for an endpoint that does not say.
        Https = "https" => Spellings(&[
            "use_https", "fs.s3a.connection.ssl.enabled", "alluxio.underfs.s3.secure.http.enabled",
            "fs.oss.connection.secure.enabled",
        ]),
        /// Region of the bucket [S3: found by itself].
        Region = "region" => Spellings(&[
            "aws_region", "fs.s3a.endpoint.region", "fs.s3.region", "aws.region",
            "alluxio.underfs.s3.region", "alluxio.underfs.s3.endpoint.region", "fs.oss.region",
            "fs.cos.region", "fs.cosn.bucket.region", "fs.tos.region",
        ]),
        /// Id of the access key.
        AccessKey = "access_key_id" => Spellings(&[
            "access_key", "accessKeyId", "akId", "aws_access_key_id", "aws.accessKeyId",
            "fs.s3a.access.key", "fs.s3.accessKeyId", "fs.s3.access.key", "minio-access-key",
            "fs.oss.accessKeyId", "fs.cos.access.key", "fs.cos.accessKeyId", "fs.cosn.userinfo.secretId",
            "secret_id", "fs.obs.accessKey", "fs.obs.access.key", "fs.obs.accessKeyId",
            "fs.tos.access-key-id", "fs.tos.accessKeyId",
        ]),
        /// The access key itself.
        SecretKey = "secret_access_key" => Spellings(&[
            "secret_key", "access_key_secret", "secretKey", "accessKeySecret", "akSecret",
            "aws_secret_access_key", "aws.secretKey", "fs.s3a.secret.key", "fs.s3.accessKeySecret",
            "fs.s3.secret.key", "minio-access-secret", "minio-secret-key", "fs.oss.accessKeySecret",
            "fs.cos.secret.key", "fs.cos.accessKeySecret", "fs.cosn.userinfo.secretKey",
            "fs.obs.secretKey", "fs.obs.secret.key", "fs.obs.accessKeySecret", "fs.tos.secret-access-key",
            "fs.tos.accessKeySecret",
        ]),
        /// Token of a temporary access key.
        SessionToken = "session_token" => Spellings(&[
            "security_token", "securityToken", "aws_session_token", "aws.sessionToken",
            "fs.s3a.session.token", "fs.s3.securityToken", "fs.oss.securityToken", "fs.cos.securityToken",
            "fs.cosn.userinfo.sessionToken", "fs.tos.sessionToken",
        ]),
        /// true: requests are not signed.
        Anonymous = "anonymous" => Spellings(&["no_sign_request", "skip_signature", "fs.s3a.anonymous"]),
        /// true: the bucket in the path, false: in the host name [otherwise: as the endpoint needs].
        PathStyle = "path_style" => Spellings(&[
            "fs.s3a.path.style.access", "fs.s3.path.style.access",
            "alluxio.underfs.s3.disable.dns.buckets", "fs.oss.path.style.access",
        ]),
        /// Role to assume.
        RoleArn = "role_arn" => Spellings(&["fs.s3a.assumed.role.arn", "fs.oss.roleArn"]),
        /// Name of the session with that role.
        RoleSessionName = "role_session_name" => Spellings(&[
            "fs.s3a.assumed.role.session.name", "fs.oss.roleSessionName",
        ]),
        /// External id that the role asks for.
        ExternalId = "external_id" => Spellings(&[]),
        /// Provider of the Pod's OIDC token (RRSA).
        OidcProviderArn = "oidc_provider_arn" => Spellings(&[]),
        /// File with the Pod's OIDC token.
        OidcTokenFile = "oidc_token_file" => Spellings(&[]),
        /// Where roles are assumed.
        StsEndpoint = "sts_endpoint" => Spellings(&[]),
        /// Profile in ~/.aws.
        Profile = "profile" => Spellings(&["aws_profile"]),
        /// true: the requester pays.
        RequesterPays = "request_payer" => Spellings(&["requester_pays", "fs.s3a.requester.pays.enabled"]),
        /// Encryption of what is written: AES256, aws:kms, KMS.
        Encryption = "server_side_encryption" => Spellings(&["fs.oss.server-side-encryption"]),
        /// Key of that encryption.
        EncryptionKeyId = "server_side_encryption_key_id" => Spellings(&[]),
        /// Storage class of what is written.
        StorageClass = "storage_class" => Spellings(&[]),
        /// Checksum of what is written: crc32c, md5 or none [crc32c].
        Checksum = "checksum_algorithm" => Spellings(&[]),
        /// Storage account.
        Account = "account_name" => Spellings(&["azure_storage_account_name"]),
        /// Key of the account.
        AccountKey = "account_key" => Spellings(&["azure_storage_account_key"]),
        /// Shared access signature.
        SasToken = "sas_token" => Spellings(&["azure_storage_sas_token"]),
        /// Service account key, the JSON in base64.
        ServiceAccount = "credential" => Spellings(&[]),
        /// File with the service account key.
        ServiceAccountFile = "credential_path" => Spellings(&[
            "google_application_credentials", "fs.gcs.credential.path",
            "fs.gs.auth.service.account.json.keyfile",
        ]),
        /// User.
        User = "user" => Spellings(&["username", "user_name", "hadoop.user.name"]),
        /// Password.
        Password = "password" => Spellings(&[]),
        /// Bearer token; delegation token.
        Token = "token" => Spellings(&["delegation"]),
        /// URL or file of a list of the files: a line each, the path, optionally a tab and the size, optionally a tab and
        /// the ETag.
        Manifest = "manifest" => Spellings(&[]),
        /// Directory with a file for each of these options, as a Secret is mounted.
        CredentialsDirectory = "credentials_dir" => Spellings(&[]),
        /// true: certificates of servers are not checked, so that anybody on the way can read and change what is sent.
        SkipTlsVerify = "insecure_skip_tls_verify" => Spellings(&[
            "skip_tls_verify", "no_verify_ssl", "no_check_certificate",
        ]),
        /// Time to find the address of the host, and to connect [5s].
        ConnectTimeout = "connect_timeout" => Spellings(&[]),
        /// Time to the first byte of an answer [20s].
        FirstByteTimeout = "first_byte_timeout" => Spellings(&[]),
        /// library: reads go the way of all other requests, to find a fault.
        Client = "http_client" => Spellings(&[]),
        /// Time between two bytes [10s].
        StallTimeout = "stall_timeout" => Spellings(&[]),
    }
}

/// Endpoints that want the bucket in the host name.
const VIRTUAL_HOSTED: &[&str] = &[".aliyuncs.com", ".amazonaws.com", ".myqcloud.com", ".volces.com"];

impl Meaning {
    /// The names of the option, the first being ours.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        iter::once(self.name()).chain(self.facts().0.iter().copied())
    }

    /// The meaning of an option's name, written [`plain`].
    fn of(asked: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|meaning| meaning.names().any(|name| plain(name) == asked))
    }

    /// What opendal calls it; none where it means nothing or is not opendal's.
    fn setting(self, scheme: Scheme) -> Option<&'static str> {
        use Scheme::*;
        Some(match (self, scheme) {
            (Endpoint, _) => "endpoint",
            (Region, S3 | Tos) => "region",
            (AccessKey, Cos) => "secret_id",
            (AccessKey, S3 | Oss | Obs | Tos) => "access_key_id",
            (AccessKey | Account, Azblob) => "account_name",
            (SecretKey, Oss) => "access_key_secret",
            (SecretKey, Cos) => "secret_key",
            (SecretKey, S3 | Obs | Tos) => "secret_access_key",
            (SecretKey | AccountKey, Azblob) => "account_key",
            (SessionToken, S3) => "session_token",
            (SessionToken, Oss | Cos | Tos) => "security_token",
            (SasToken, Azblob) => "sas_token",
            (Anonymous, S3 | Oss | Gcs | Azblob | Tos) => "skip_signature",
            (RoleArn, S3 | Oss) => "role_arn",
            (RoleSessionName, S3 | Oss) => "role_session_name",
            (ExternalId, S3 | Oss) => "external_id",
            (OidcProviderArn, Oss) => "oidc_provider_arn",
            (OidcTokenFile, Oss) => "oidc_token_file",
            (StsEndpoint, Oss) => "sts_endpoint",
            (Profile, S3) => "profile",
            (RequesterPays, S3) => "enable_request_payer",
            (Encryption, S3 | Oss) => "server_side_encryption",
            (EncryptionKeyId, S3) => "server_side_encryption_aws_kms_key_id",
            (EncryptionKeyId, Oss) => "server_side_encryption_key_id",
            (StorageClass, S3 | Gcs) => "default_storage_class",
            (Checksum, S3) => "checksum_algorithm",
            (ServiceAccount, Gcs) => "credential",
            (ServiceAccountFile, Gcs) => "credential_path",
            (User, Webhdfs) => "user_name",
            (User, Http) => "username",
            (Password, Http) => "password",
            (Token, Http | Gcs) => "token",
            (Token, Webhdfs) => "delegation",
            _ => return None,
        })
    }

    /// Whether a value that is the path of a file stands for what the file has: so Fluid hands encrypted
    /// options to a ThinRuntime.
    fn secret(self) -> bool {
        matches!(
            self,
            AccessKey
                | SecretKey
                | SessionToken
                | AccountKey
                | SasToken
                | ServiceAccount
                | User
                | Password
                | Token
        )
    }
}

/// How long to wait for what no option says, in seconds: to connect, to the first byte of an answer, to the next.
const CONNECT: u64 = 5;
const FIRST_BYTE: u64 = 20;
const STALL: u64 = 10;

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) stall: Duration,
}

impl Timeouts {
    /// Without what is longer than the time for a whole operation, unless the defaults are: what is written may take its
    /// time.
    pub(super) fn within(self, most: Duration) -> Self {
        let within = |time: Duration, seconds| time.min(most.max(Duration::from_secs(seconds)));
        Timeouts {
            connect: within(self.connect, CONNECT),
            first_byte: within(self.first_byte, FIRST_BYTE),
            stall: within(self.stall, STALL),
        }
    }
}

/// What a URL and its options name. It has credentials, so it has no `Debug`.
pub(super) struct StoreLocation {
    pub(super) scheme: Scheme,
    /// The URL as it may be shown.
    pub(super) url: String,
    /// opendal's settings.
    pub(super) settings: BTreeMap<String, String>,
    pub(super) region: Option<String>,
    pub(super) manifest: Option<String>,
    pub(super) timeouts: Timeouts,
    pub(super) verification: Verification,
    /// Whether reads may take the fast path.
    pub(super) is_fast: bool,
    /// The files that values were read from.
    pub(super) files: Files,
}

/// Files, as they were when they were last looked at.
#[derive(PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

/// Options that name a file or a directory themselves.
const PATHS: [Meaning; 4] = [OidcTokenFile, ServiceAccountFile, Manifest, CredentialsDirectory];

/// Whether the value of an option is a path, or may be one.
pub fn is_path(name: &str) -> bool {
    Meaning::of(&plain(name)).is_some_and(|meaning| PATHS.contains(&meaning))
}

/// Whose servers get what this Pod is known by without anybody having written it down, and by the ends of their names.
const OWN_SERVERS: &[(Scheme, &[&str])] = &[
    (Scheme::Gcs, &[".googleapis.com"]),
    (
        Scheme::Azblob,
        &[".core.windows.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net", ".core.cloudapi.de"],
    ),
];

impl Files {
    fn look(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamp = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        Self(paths.into_iter().map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect())
    }

    /// Whether one of them is another by now.
    pub(super) fn changed(&self) -> bool {
        !self.0.is_empty() && *self != Self::look(self.0.iter().map(|(path, _)| path.clone()))
    }
}

impl StoreLocation {
    /// Reads the options; the environment is a function, so that tests need not change theirs.
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
        let https = values.switch(Https)?.unwrap_or(true);
        let region = values.get(Region).map(str::to_string);
        let mut place = Self {
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
        place.set("root", format!("/{root}"));
        place.locate(name, authority, https, values.switch(PathStyle)?)?;
        if trust == Trust::Dataset {
            place.keep_identity(&values)?;
        }
        Ok(place)
    }

    /// Refuses what would send a token of this Pod, which is not the Dataset's, to a server that the Dataset names. Signed
    /// requests do not: who gets them cannot sign others.
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

    /// The bucket is in another region: signatures are for that one, and so is an endpoint of Amazon's that has the region
    /// in its name.
    pub(super) fn move_to(&mut self, region: &str) {
        let before = self.settings.insert("region".to_string(), region.to_string()).unwrap_or_default();
        if let Some(endpoint) = self.settings.get_mut("endpoint")
            && [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|end| endpoint.ends_with(end))
        {
            *endpoint = endpoint.replace(&format!("{before}."), &format!("{region}."));
        }
        self.region = Some(region.to_string());
    }

    /// Where the bucket is asked for without a key.
    pub(super) fn bucket_url(&self) -> Option<http::Uri> {
        let setting = |name: &str| self.settings.get(name).map(String::as_str);
        let bucket = setting("bucket").unwrap_or_default();
        let url = match (setting("endpoint"), setting("enable_virtual_host_style")) {
            // Asks for buckets of all regions.
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

    /// Bucket and endpoint, in each store's way.
    fn locate(
        &mut self,
        name: &str,
        authority: &str,
        https: bool,
        path_style: Option<bool>,
    ) -> anyhow::Result<()> {
        let mut bucket = authority;
        let mut endpoint = self.settings.remove("endpoint");
        match self.scheme {
            Scheme::Webhdfs => {
                endpoint =
                    Some(format!("{}://{authority}", if name == "swebhdfs" { "https" } else { "http" }))
            }
            Scheme::Http => endpoint = Some(format!("{name}://{authority}")),
            Scheme::Oss => {
                // JindoFS's way to write it: oss://bucket.oss-cn-hangzhou.aliyuncs.com/path.
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
            false => format!("{}://{endpoint}", if https { "https" } else { "http" }),
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
                // The region is in the names of OSS's endpoints, but for those of "accelerate" and of users.
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

/// What was found, the first of a meaning being the one that counts.
struct Values {
    found: Vec<(Meaning, String)>,
    files: Vec<PathBuf>,
    trust: Trust,
    /// How many of them are options, before those of the environment.
    options: usize,
}

impl Values {
    fn read(scheme: Scheme, options: &BTreeMap<String, String>, trust: Trust) -> anyhow::Result<Self> {
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

    /// Refuses a path that is not for a Dataset, wherever it was read.
    fn check_path(&self, meaning: Meaning, value: &str) -> anyhow::Result<()> {
        let is_path = PATHS.contains(&meaning) && !(meaning == Manifest && is_url(value));
        if self.trust == Trust::Dataset && is_path {
            trust::secret(Path::new(value))?;
        }
        Ok(())
    }

    fn has(&self, meaning: Meaning) -> bool {
        self.get(meaning).is_some()
    }

    /// Whether an option has it, and not the environment alone.
    fn of_options(&self, meaning: Meaning) -> bool {
        self.found.iter().take(self.options).any(|(of, _)| *of == meaning)
    }

    fn get(&self, meaning: Meaning) -> Option<&str> {
        self.found.iter().find(|(of, _)| *of == meaning).map(|(_, value)| value.as_str())
    }

    fn switch(&self, meaning: Meaning) -> anyhow::Result<Option<bool>> {
        let Some(value) = self.get(meaning) else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Ok(Some(true)),
            "false" | "0" | "no" => Ok(Some(false)),
            _ => bail!("the option {:?} must be true or false, not {value:?}", meaning.name()),
        }
    }

    fn duration(&self, meaning: Meaning, seconds: u64) -> anyhow::Result<Duration> {
        let Some(value) = self.get(meaning) else { return Ok(Duration::from_secs(seconds)) };
        let time = humantime::parse_duration(value).with_context(|| {
            format!("the option {:?} must be a time such as 5s, not {value:?}", meaning.name())
        })?;
        ensure!(!time.is_zero(), "the option {:?} must be longer than nothing", meaning.name());
        Ok(time)
    }
}

/// Whether the path of a file stands for what the file has.
fn is_file_of(meaning: Meaning, value: &str) -> bool {
    meaning.secret() && value.starts_with('/') && Path::new(value).is_file()
}

fn is_url(value: &str) -> bool {
    value.starts_with("http://") || value.starts_with("https://")
}

/// Whether an option is itself something that nobody else may see, neither a file's path nor a mere name.
pub fn is_secret(name: &str, value: &str) -> bool {
    Meaning::of(&plain(name)).is_some_and(|meaning| meaning.secret() && !matches!(meaning, AccessKey | User))
        && !(value.starts_with('/') && Path::new(value).is_file())
}

fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// The store that a name is about, if one alone, what it means, and whether its value is the path of a file.
fn meaning(name: &str) -> anyhow::Result<Option<(Option<Scheme>, Meaning, bool)>> {
    let asked = plain(name);
    let store = Scheme::ALL
        .iter()
        .copied()
        .find(|scheme| facts(*scheme).option_prefixes.iter().any(|prefix| asked.starts_with(prefix)));
    let known = Meaning::of(&asked)
        .map(|meaning| (meaning, false))
        .or_else(|| Some((Meaning::of(asked.strip_suffix("_file")?)?, true)));
    if let Some((meaning, file)) = known {
        return Ok(Some((store, meaning, file)));
    }
    let near = Meaning::ALL
        .iter()
        .flat_map(|meaning| meaning.names())
        .map(|known| (strsim::damerau_levenshtein(&plain(known), &asked), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| format!("; did you mean {known:?}?"))
        .unwrap_or_default();
    ensure!(store.is_none(), "the option {name:?} is not known{near}");
    log::warn!("the option {name:?} is not known and not used{near}");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str, options: &[(&str, &str)]) -> Result<StoreLocation, String> {
        let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let environment = |name: &str| match name {
            "OSS_REGION" => Some("cn-beijing".to_string()),
            "AZURE_STORAGE_ACCOUNT" => Some("account".to_string()),
            _ => None,
        };
        StoreLocation::resolve(url, &options, Trust::Administrator, environment)
            .map_err(|error| format!("{error:#}"))
    }

    fn settings(url: &str, options: &[(&str, &str)]) -> Vec<(String, String)> {
        place(url, options).map(|place| place.settings.into_iter().collect()).unwrap()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn as_fluids_runtimes_write_it() {
        let jindo = [
            ("fs.oss.endpoint", "oss-cn-hangzhou-internal.aliyuncs.com"),
            ("fs.oss.accessKeyId", "id"),
            ("fs.oss.accessKeySecret", "secret"),
            // Of another mount of the same Dataset.
            ("fs.s3a.access.key", "other"),
        ];
        let expected = [
            ("access_key_id", "id"),
            ("access_key_secret", "secret"),
            ("addressing_style", "virtual"),
            ("bucket", "bucket"),
            ("endpoint", "https://oss-cn-hangzhou-internal.aliyuncs.com"),
            ("root", "/a b/c"),
        ];
        let found = settings("oss://bucket/a b/c/", &jindo);
        assert_eq!(found, pairs(&expected));
        assert_eq!(settings("oss://bucket/a%20b/c", &jindo), pairs(&expected));

        let alluxio = [
            ("alluxio.underfs.s3.endpoint", "minio:9000"),
            ("alluxio.underfs.s3.disable.dns.buckets", "true"),
            ("alluxio.underfs.s3.secure.http.enabled", "false"),
            ("aws.accessKeyId", "id"),
            ("aws.secretKey", "secret"),
        ];
        let expected = [
            ("access_key_id", "id"),
            ("bucket", "b"),
            ("checksum_algorithm", "crc32c"),
            ("enable_virtual_host_style", "false"),
            ("endpoint", "http://minio:9000"),
            ("region", "us-east-1"),
            ("root", "/"),
            ("secret_access_key", "secret"),
        ];
        assert_eq!(settings("s3://b", &alluxio), pairs(&expected));

        let expected = [
            ("access_key_id", "id"),
            ("bucket", "b"),
            ("checksum_algorithm", "crc32c"),
            ("enable_virtual_host_style", "true"),
            ("endpoint", "https://s3.eu-west-1.amazonaws.com"),
            ("region", "eu-west-1"),
            ("root", "/"),
            ("skip_signature", "true"),
        ];
        let s3a = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("url", "https://s3.eu-west-1.amazonaws.com/"),
            ("anonymous", "True"),
        ];
        assert_eq!(settings("s3a://b/", &s3a), pairs(&expected));
    }

    #[test]
    fn endpoints_that_nobody_wrote() {
        let endpoint = |url: &str| {
            let place = place(url, &[]).unwrap();
            (place.settings.get("endpoint").cloned().unwrap_or_default(), place.region.unwrap_or_default())
        };
        let pair = |endpoint: &str, region: &str| (endpoint.to_string(), region.to_string());
        assert_eq!(endpoint("oss://b/p"), pair("https://oss-cn-beijing.aliyuncs.com", "cn-beijing"));
        assert_eq!(
            endpoint("oss://b.oss-cn-beijing-internal.aliyuncs.com/p").0,
            "https://oss-cn-beijing-internal.aliyuncs.com"
        );
        assert_eq!(endpoint("az://container/p").0, "https://account.blob.core.windows.net");
        assert_eq!(endpoint("webhdfs://name:9870/p").0, "http://name:9870");
        assert_eq!(endpoint("https://host:1/p").0, "https://host:1");
    }

    #[test]
    fn a_bucket_may_be_in_another_region() {
        let moved = |options: &[(&str, &str)]| {
            let mut place = place("s3://b", options).unwrap();
            place.move_to("eu-west-1");
            let setting = |name: &str| place.settings.get(name).cloned().unwrap_or_default();
            assert_eq!(setting("region"), "eu-west-1");
            setting("endpoint")
        };
        assert_eq!(moved(&[]), "");
        for (before, after) in [
            ("https://s3.us-east-2.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
            ("https://s3.dualstack.us-east-2.amazonaws.com", "https://s3.dualstack.eu-west-1.amazonaws.com"),
            ("https://s3.amazonaws.com", "https://s3.amazonaws.com"),
            ("http://minio.us-east-2.example:9000", "http://minio.us-east-2.example:9000"),
        ] {
            assert_eq!(moved(&[("endpoint", before), ("region", "us-east-2")]), after);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_words() {
        let refused = |url: &str, options: &[(&str, &str)]| place(url, options).err().unwrap_or_default();
        let near = refused("oss://b", &[("fs.oss.accesKeyId", "secret")]);
        assert!(near.contains("did you mean \"fs.oss.accessKeyId\"?") && !near.contains("secret"), "{near}");
        assert!(refused("oss://id:secret@b/p", &[]).contains("as options"));
        assert!(!refused("oss://id:secret@b/p", &[]).contains("secret"));
        assert!(refused("obs://b", &[]).contains("\"endpoint\""));
        assert!(refused("ftp://b", &[]).contains("s3, s3a, oss"));
        assert!(refused("s3://b/a//b", &[]).contains("empty part"));
        assert!(refused("s3://b/a/%2Fb", &[]).contains("empty part"));
        assert!(refused("s3://b/%ff", &[]).contains("UTF-8"));
        assert!(refused("s3://b", &[("path_style", "maybe")]).contains("true or false"));
        assert!(refused("s3://b", &[("stall_timeout", "0s")]).contains("longer"));
        assert!(refused("s3://b", &[("secret_key_file", "/none")]).contains("/none"));
        assert!(place("s3://b", &[("unknown", "x")]).is_ok());
    }

    #[test]
    fn f9_a_dataset_names_no_file_and_sends_no_token_away() {
        let of = |trust, url: &str, options: &[(&str, &str)]| {
            let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            StoreLocation::resolve(url, &options, trust, |_| None).map_err(|error| format!("{error:#}"))
        };
        let dataset =
            |url: &str, options: &[(&str, &str)]| of(Trust::Dataset, url, options).err().unwrap_or_default();
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        // Every option, by every name of it.
        for meaning in Meaning::ALL {
            for name in meaning.names() {
                let name = format!("{name}_file");
                let error = dataset("http://host/a", &[(&name, path)]);
                assert!(error.contains("but those of its Secrets") || error.is_empty(), "{name}: {error}");
                let store = Scheme::ALL.iter().find(|scheme| {
                    facts(**scheme).option_prefixes.iter().any(|prefix| plain(&name).starts_with(prefix))
                });
                assert_eq!(error.is_empty(), store.is_some(), "{name}: {error}");
            }
        }
        for path in [path, "/proc/self/environ", "/etc/fluid/secrets/../config/config.json", "relative"] {
            for name in ["manifest", "credentials_dir", "credential_path", "oidc_token_file"] {
                assert!(
                    dataset("http://host/a", &[(name, path)]).contains("but those of its Secrets"),
                    "{name} {path}"
                );
            }
            for url in ["s3://b", "gs://b"] {
                assert!(
                    dataset(url, &[("google_application_credentials", path)]).contains("Secrets"),
                    "{url} {path}"
                );
            }
        }
        // A key may begin with a slash. It is no file then.
        let key = of(Trust::Dataset, "http://host/a", &[("token", path)]).unwrap();
        assert_eq!(key.settings.get("token").map(String::as_str), Some(path));
        assert_eq!(dataset("http://host/a", &[("manifest", "https://host/list")]), "");
        assert!(dataset("http://host/a", &[("manifest", "file:///etc/passwd")]).contains("Secrets"));

        for server in
            ["http://attacker", "attacker.aliyuncs.com.attacker.net", "http://sts.aliyuncs.com@attacker/"]
        {
            let options = [("endpoint", "oss-cn-x.aliyuncs.com"), ("sts_endpoint", server)];
            assert!(dataset("oss://b", &options).contains("own token"), "{server}");
        }
        let sts = [("endpoint", "e"), ("sts_endpoint", "sts-vpc.cn-hangzhou.aliyuncs.com")];
        assert_eq!(dataset("oss://b", &sts), "");
        for (url, own) in [("gs://b", "storage.googleapis.com"), ("az://c", "a.blob.core.windows.net")] {
            let account = ("account_name", "a");
            assert!(dataset(url, &[("endpoint", "http://attacker"), account]).contains("own token"), "{url}");
            assert_eq!(dataset(url, &[("endpoint", own), account]), "");
            assert_eq!(dataset(url, &[("endpoint", "http://mine"), account, ("anonymous", "true")]), "");
            assert!(of(Trust::Administrator, url, &[("endpoint", "http://mine"), account]).is_ok());
            let unchecked = ("insecure_skip_tls_verify", "true");
            assert!(dataset(url, &[("endpoint", own), account, unchecked]).contains("own token"), "{url}");
            assert_eq!(dataset(url, &[("endpoint", own), account, unchecked, ("anonymous", "true")]), "");
        }
    }

    #[test]
    fn names_are_unique() {
        let names = || Meaning::ALL.iter().flat_map(|meaning| meaning.names()).map(plain);
        let unique: std::collections::BTreeSet<_> = names().collect();
        assert_eq!(unique.len(), names().count());
    }
}
