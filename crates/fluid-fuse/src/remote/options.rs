//! The options of a bucket, as users of Fluid's runtimes write them.
//!
//! [`Meaning`] is the one table of options and of their meaning for each store. `option_values` reads their
//! values, `location` uses them.

use std::iter;
use std::path::Path;

use anyhow::ensure;
use fluid_sidecar_layout::source::Scheme;
use fluid_sidecar_layout::{Named as _, named};

use self::Meaning::*;

/// The facts about a kind of store beside its URLs ([`Scheme`]).
#[derive(Debug)]
pub struct Facts {
    /// Prefixes of the names of this store's options. No other program reads these options here, so an unknown name
    /// with such a prefix is a mistake.
    pub option_prefixes: &'static [&'static str],
    /// Environment variables that reqsign does not read, for values that no option has. The first one that is set
    /// counts.
    pub environment: &'static [(&'static str, Meaning)],
}

/// The facts about each store.
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
    /// Every option, with its text for the documentation. A name with a store's prefix is read for that store only;
    /// each name also exists as `<name>_file`, the path of a file that has the value.
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

impl Meaning {
    /// The names of the option, that of this project first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        iter::once(self.name()).chain(self.facts().0.iter().copied())
    }

    /// The meaning of a name that was normalized by [`plain`].
    fn of(plain_name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|meaning| meaning.names().any(|name| plain(name) == plain_name))
    }

    /// The name of opendal's setting; none if the option means nothing for the store or is not opendal's.
    pub(super) fn setting(self, scheme: Scheme) -> Option<&'static str> {
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

    /// Whether the option holds a secret or a part of one. Fluid hands encrypted options to a ThinRuntime as paths of
    /// files, so a path stands for the content of the file.
    pub(super) fn secret(self) -> bool {
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

/// Largest edit distance of a name to a known one that a message proposes instead.
const MAX_TYPOS: usize = 3;

/// Options whose value is the path of a file or a directory.
pub(super) const PATHS: [Meaning; 4] = [OidcTokenFile, ServiceAccountFile, Manifest, CredentialsDirectory];

/// Whether the value of an option is a path, or may be one.
pub fn is_path(name: &str) -> bool {
    Meaning::of(&plain(name)).is_some_and(|meaning| PATHS.contains(&meaning))
}

/// Whether the value of an option is a secret, and neither the path of a file nor a name.
pub fn is_secret(name: &str, value: &str) -> bool {
    Meaning::of(&plain(name)).is_some_and(|meaning| meaning.secret() && !matches!(meaning, AccessKey | User))
        && !(value.starts_with('/') && Path::new(value).is_file())
}

pub(super) fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// The store that the name of an option is for, if for one only, its meaning, and whether its value is the path of a
/// file.
pub(super) fn meaning(name: &str) -> anyhow::Result<Option<(Option<Scheme>, Meaning, bool)>> {
    let plain_name = plain(name);
    let store = Scheme::ALL
        .iter()
        .copied()
        .find(|scheme| facts(*scheme).option_prefixes.iter().any(|prefix| plain_name.starts_with(prefix)));
    let known = Meaning::of(&plain_name)
        .map(|meaning| (meaning, false))
        .or_else(|| Some((Meaning::of(plain_name.strip_suffix("_file")?)?, true)));
    if let Some((meaning, file)) = known {
        return Ok(Some((store, meaning, file)));
    }
    let near = Meaning::ALL
        .iter()
        .flat_map(|meaning| meaning.names())
        .map(|known| (strsim::damerau_levenshtein(&plain(known), &plain_name), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= MAX_TYPOS)
        .map(|(_, known)| format!("; did you mean {known:?}?"))
        .unwrap_or_default();
    ensure!(store.is_none(), "the option {name:?} is not known{near}");
    log::warn!("the option {name:?} is not known and not used{near}");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names = || Meaning::ALL.iter().flat_map(|meaning| meaning.names()).map(plain);
        let unique: std::collections::BTreeSet<_> = names().collect();
        assert_eq!(unique.len(), names().count());
    }
}
