//! Files that a test makes: compared, or written anew with `UPDATE_EXPECT=1`.

use std::fs;
use std::path::Path;

/// The error is a diff between the file and what it should be.
pub fn expect(path: &Path, found: &str) -> Result<(), String> {
    let expected = if path.exists() { fs::read_to_string(path).unwrap() } else { String::new() };
    if expected == found {
        return Ok(());
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, found).unwrap();
        return Ok(());
    }
    let diff = similar::TextDiff::from_lines(expected.as_str(), found);
    Err(format!("{}:\n{}", path.display(), diff.unified_diff().header("expected", "found")))
}
