//! Sizes as people write them: `90MB`, `64KiB`, `1048576`. It knows bytes, not what they are counted for.

use anyhow::{Context, bail};

/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;

/// The bytes that a text says.
pub fn parse(text: &str) -> anyhow::Result<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => MIB,
        "GiB" => 1 << 30,
        other => bail!("{other:?} is not one of B, kB, MB, GB, KiB, MiB, GiB"),
    };
    let number: u64 = number.parse().with_context(|| format!("{text:?} does not begin with a number"))?;
    number.checked_mul(factor).with_context(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        assert_eq!(parse("90MB").unwrap(), 90_000_000);
        assert_eq!(parse("64KiB").unwrap(), 65_536);
        assert_eq!(parse("7").unwrap(), 7);
        for wrong in ["", "MB", "1mb", "1.5MB", "99999999999GiB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
