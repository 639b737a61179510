//! The time of change in the metadata of an object, as rclone and s3fs keep it.

use std::time::{Duration, SystemTime};

/// Its name in an object's metadata.
pub(super) const NAME: &str = "mtime";

/// Seconds since 1970, with a fraction if there is one; nothing before.
pub(super) fn to_text(time: SystemTime) -> Option<String> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(match since.subsec_nanos() {
        0 => since.as_secs().to_string(),
        fraction => format!("{}.{fraction:09}", since.as_secs()),
    })
}

/// The time that such a text tells, if it is one.
pub(super) fn from_text(text: &str) -> Option<SystemTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let nanos = format!("{:0<9}", fraction.get(..fraction.len().min(9))?);
    let (seconds, nanos) =
        (digits(seconds).then(|| seconds.parse().ok())??, digits(&nanos).then(|| nanos.parse().ok())??);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rclone() {
        for (text, seconds, nanos) in [
            ("1354040105", 1_354_040_105, 0),
            ("1354040105.123", 1_354_040_105, 123_000_000),
            ("0.000000001", 0, 1),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(from_text(text), Some(time), "{text}");
            assert_eq!(from_text(&to_text(time).unwrap()), Some(time), "{text}");
        }
        for text in ["", "x", "-1", "+1", "1.x", "1.ä", "99999999999999999999", "1e9"] {
            assert_eq!(from_text(text), None, "{text}");
        }
    }
}
