//! Points in time as HTTP and as S3's listings write them. It knows the calendar of UTC and no other.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// As in `Last-Modified`.
pub(super) fn http(time: SystemTime) -> String {
    let (days, seconds) = split(time);
    let text = iso(time);
    // 2006-01-02T15:04:05.000Z
    let month = text[5..7].parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    format!(
        "{}, {} {} {} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        &text[8..10],
        month.unwrap_or(&"Jan"),
        &text[..4],
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
    )
}

/// As in `<LastModified>`.
pub(super) fn iso(time: SystemTime) -> String {
    let seconds = humantime::format_rfc3339_seconds(time.max(UNIX_EPOCH)).to_string();
    format!("{}.000Z", seconds.trim_end_matches('Z'))
}

/// Days since 1970, and seconds into the day.
fn split(time: SystemTime) -> (u64, u64) {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (seconds / 86400, seconds % 86400)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn both_forms() {
        let time = UNIX_EPOCH + Duration::from_secs(784_887_151);
        assert_eq!(super::http(time), "Tue, 15 Nov 1994 08:12:31 GMT");
        assert_eq!(super::iso(time), "1994-11-15T08:12:31.000Z");
        assert_eq!(super::http(UNIX_EPOCH), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
